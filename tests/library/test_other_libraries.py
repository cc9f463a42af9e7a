"""The interfaces to scikit-learn, `datasets` and faiss."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from fungi.config import KLConfig
from fungi.errors import FungiError
from fungi.library.datasets_map import add_features
from fungi.library.estimator import FungiTransformer
from fungi.library.search import faiss_index, nearest_images
from tests.library.models import LAYERS, SIZE, SMALL_CONFIGS, build, dataset, pictures, set_up_wrapper, wrap


def transformer(**options: Any) -> FungiTransformer:
    """Return an estimator with a small model."""
    return FungiTransformer(build("timm"), LAYERS["timm"], input_dim=SIZE, batch_size=8, **options)


def test_the_transformer_gives_the_features_of_the_wrapper() -> None:
    images = pictures(5)
    features = transformer(extractor_configs=list(SMALL_CONFIGS)).fit(images).transform(images)
    wrapper = wrap(include_embeddings=True)
    wrapper.setup(images)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, wrapper(images).numpy(), atol=1e-4)


@pytest.mark.slow
def test_the_transformer_works_in_a_pipeline_on_digits() -> None:
    from fungi.backbones.loading import load_backbone
    from fungi.data.base import open_split

    backbone = load_backbone("digits-vit")
    samples = open_split("digits", "train", Path())
    arrays = np.stack([np.asarray(samples.load(row)) for row in range(160)])
    labels = samples.targets[:160]
    options = {"input_dim": 32, "image_input": backbone.input, "pca_dim": 16}
    features = FungiTransformer(backbone.model, backbone.spec.layer, **options)
    pipeline = make_pipeline(features, KNeighborsClassifier(3)).fit(arrays[:120], labels[:120])
    # There are 12 rows per class, and the backbone was trained on only half of the classes.
    assert pipeline.score(arrays[120:], labels[120:]) > 0.6
    assert list(pipeline[:1].get_feature_names_out()) == [f"pca_{index}" for index in range(16)]


def test_feature_names_start_with_the_name_of_the_part() -> None:
    names = transformer().fit(pictures(2)).get_feature_names_out()
    assert len(names) == 48
    assert names[0] == "embeddings_0"
    assert names[24] == "kl_0"


def test_a_clone_has_the_same_parameters_and_is_not_fitted() -> None:
    copy = clone(transformer(pca_dim=3))
    assert copy.get_params()["pca_dim"] == 3
    assert not hasattr(copy, "wrapper_")


class SmallConvolution(nn.Module):
    """A model with few weights."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(images).mean(dim=(2, 3))


class TableTransformer(FungiTransformer):
    """A transformer that accepts tables, because the checks of scikit-learn use tables. Each row becomes a picture."""

    def pictures(self, table: Any, *, fitting: bool) -> list[Image.Image]:
        rows = validate_data(self, table, reset=fitting, dtype=np.float64)
        grey = np.clip(rows * 20 + 128, 0, 255).astype(np.uint8)
        return [Image.fromarray(np.resize(row, (8, 8))) for row in grey]

    def fit(self, X: Any, y: Any = None) -> "TableTransformer":
        super().fit(self.pictures(X, fitting=True))
        return self

    def transform(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().transform(self.pictures(X, fitting=False))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array, tags.no_validation = True, False, False
        return tags


EXPECTED_FAILURES = {
    "check_estimators_overwrite_params": "the hash by joblib of a torch module differs from the hash of its copy",
}


@pytest.mark.slow
def test_the_checks_of_scikit_learn_pass_except_for_listed_failures() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmallConvolution()
    assert joblib.hash(deepcopy(model)) != joblib.hash(model)
    estimator = TableTransformer(model, "last", input_dim=8, extractor_configs=[KLConfig(latent_dim=4)])
    results = check_estimator(estimator, expected_failed_checks=EXPECTED_FAILURES, on_skip=None, on_fail=None)
    by_status: dict[str, set[str]] = {}
    for result in results:
        by_status.setdefault(result["status"], set()).add(result["check_name"])
    assert len(by_status["passed"]) > 40
    assert by_status.get("failed", set()) == set()
    assert by_status["xfail"] == set(EXPECTED_FAILURES)
    assert by_status.get("skipped", set()) <= {"check_array_api_input"}  # asks for an environment variable


@pytest.mark.filterwarnings("ignore:Can't test estimator:sklearn.exceptions.SkipTestWarning")
def test_the_tags_of_the_transformer_exclude_tables() -> None:
    results = check_estimator(FungiTransformer(), on_fail=None, on_skip=None)
    assert {result["status"] for result in results} == {"passed"}
    tags = get_tags(FungiTransformer())
    assert (tags.input_tags.two_d_array, tags.input_tags.three_d_array) == (False, True)


def test_arrays_that_are_not_images_are_refused() -> None:
    with pytest.raises(FungiError, match=r"an array of float64 with 2 axes does not contain images\. Pass uint8"):
        transformer().fit(np.zeros((3, 4)))


def test_add_features_adds_a_column_with_the_features(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    images = pictures(5)
    columns = {"image": images, "label": list(range(5))}
    table = Dataset.from_dict(columns, features=Features({"image": Image(), "label": Value("int64")}))
    wrapper = wrap(configs=[KLConfig(latent_dim=24)])
    extended = add_features(table, wrapper, batch_size=2)
    np.testing.assert_allclose(np.array(extended["fungi"], dtype=np.float32), wrapper(images).numpy(), atol=1e-4)
    assert extended.column_names == ["image", "label", "fungi"]
    assert extended._fingerprint == add_features(table, wrapper)._fingerprint
    assert extended._fingerprint != add_features(table, set_up_wrapper(configs=[KLConfig(latent_dim=23)]))._fingerprint
    with pytest.raises(FungiError, match=r"no column 'picture'. It has: image, label"):
        add_features(table, wrapper, image_column="picture")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_index_gives_the_same_neighbours_as_a_comparison_of_all_pairs(metric: str) -> None:
    features, queries = torch.randn(30, 8), torch.randn(4, 8)
    _, rows = nearest_images(faiss_index(features, metric), queries, 5)
    if metric == "cosine":
        order = torch.nn.functional.cosine_similarity(queries[:, None], features[None], dim=-1).argsort(descending=True)
    else:
        order = torch.cdist(queries, features).argsort()
    assert torch.equal(rows, order[:, :5])


def test_more_neighbours_than_entries_give_all_entries() -> None:
    index = faiss_index(torch.randn(3, 8))
    assert nearest_images(index, torch.randn(2, 8), 10)[1].shape == (2, 3)


def test_an_image_of_the_dataset_is_its_own_nearest_neighbour() -> None:
    wrapper, data = set_up_wrapper(), dataset()
    index = faiss_index(wrapper.extract(data))
    _, rows = nearest_images(index, wrapper([data[7][0]]), 1)
    assert rows.tolist() == [[7]]
