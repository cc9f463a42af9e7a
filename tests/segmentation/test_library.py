"""`wrapper.dense` gives the same values as the stage."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fungi import FUNGIWrapper
from fungi.backbones.loading import load_backbone
from fungi.config import KLConfig
from fungi.errors import FungiError
from fungi.gradients.projection import ProjectionMatrix, load_projection
from fungi.segmentation.dense import set_input_size
from fungi.segmentation.evaluation import prepare
from fungi.segmentation.segment import run
from fungi.store.banks import open_bank
from fungi.views.image import HALF
from tests.daily import slow_after_first
from tests.segmentation.own_masks import write_dataset
from tests.segmentation.test_protocol import SIZE, simple_settings


def wrapper_with(projection: ProjectionMatrix | None) -> FUNGIWrapper:
    """Return a wrapper of digits-vit for images of `SIZE` pixels."""
    backbone = load_backbone("digits-vit")
    set_input_size(backbone.model, SIZE)
    image_input = backbone.input.resized(SIZE)
    layer, configs = "blocks.3.attn.proj", [KLConfig()]
    return FUNGIWrapper(
        backbone.model, layer, "cpu", projection, SIZE, extractor_configs=configs, image_input=image_input
    )


@pytest.mark.parametrize("from_bank", slow_after_first([False, True]))
def test_the_wrapper_gives_the_values_of_the_stage(from_bank: bool, tmp_path: Path) -> None:
    run(simple_settings(tmp_path / "out", write_dataset(tmp_path / "data"), features=("embeddings+simclr",)))
    (projection,) = (tmp_path / "out" / "projections").iterdir()
    banks = {path.name.partition("-")[0]: path for path in (tmp_path / "out" / "banks").glob("*/*/*")}
    wrapper = wrapper_with(load_projection(projection))
    images = [Image.open(path).convert("RGB") for path in sorted((tmp_path / "data" / "train" / "images").iterdir())]
    wrapper.setup_dense(bank=banks["embeddings"]) if from_bank else wrapper.setup_dense(images)
    features = wrapper.dense(images)
    stage = open_bank(banks["embeddings+simclr"])
    assert json.loads((stage.folder / "bank.json").read_text())["provenance"]["projection_hash"]
    expected = torch.from_numpy(stage.features(0, stage.rows)).reshape(features.shape)
    torch.testing.assert_close(features, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(wrapper.dense(images[2:3])[0], features[2], rtol=0, atol=2e-6)


# Cause in the error message -> settings of the bank.
REFUSED = {
    "feature is simclr": {"feature": "simclr"},
    "profile is published": {"profile": "published"},
    "input size is 48": {"input_size": 48},
    "statistics is": {"std_typo": True},
    "weights at that size is": {"random_init": True},
}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("squares"))


@pytest.mark.parametrize("cause", REFUSED)
def test_a_bank_with_another_provenance_is_refused(
    cause: str, squares: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"feature": "embeddings", **REFUSED[cause]}
    feature = flags.pop("feature")
    if "std_typo" in flags:
        monkeypatch.setattr("fungi.segmentation.evaluation.IMAGENET", HALF)  # HALF is the input of digits-vit
    stage = prepare(simple_settings(tmp_path, squares, **flags))
    bank = stage.bank(feature, None if feature == "embeddings" else stage.support)
    wrapper = wrapper_with(None)
    with pytest.raises(FungiError, match=f"{bank.folder} does not fit: its {cause}.* Pass a bank of embeddings"):
        wrapper.setup_dense(bank=bank.folder)


def test_dense_features_need_a_setup_and_patch_tokens() -> None:
    backbone = load_backbone("digits-vit")
    wrapper = FUNGIWrapper(backbone.model, "blocks.3.attn.proj", "cpu", None, 32, extractor_configs=[KLConfig()])
    with pytest.raises(FungiError, match="call setup_dense"):
        wrapper.dense([Image.new("RGB", (32, 32))])
    with pytest.raises(FungiError, match="Pass one of them"):
        wrapper.setup_dense()
