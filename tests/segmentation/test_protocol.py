"""The complete evaluation equals a simple reference: one query at a time, in float64."""

from pathlib import Path

import numpy as np
import pytest

from fungi.gradients.projection import load_projection
from fungi.segmentation.segment import run
from fungi.segmentation.settings import SegmentSettings
from tests.daily import slow_after_first
from tests.segmentation.own_masks import write_dataset
from tests.segmentation.reference import SIZE, Reference


def simple_settings(root: Path, dataset: str, **flags) -> SegmentSettings:
    """Return settings without random draws: no augmentation, and every patch is kept."""
    defaults = {"memory_size": 0, "augmentation_epochs": 0, "input_size": SIZE, "neighbours": 7, "temperature": 0.05}
    return SegmentSettings(root=root, dataset=dataset, **{**defaults, **flags})


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("squares")
    write_dataset(root, size=(50, 44))
    return root


@pytest.mark.also_with_two_threads
def test_iou_of_every_class_equals_the_reference(squares: Path, tmp_path: Path) -> None:
    scores = run(simple_settings(tmp_path, f"squares=masks:{squares}", features=("embeddings",)))["results"][
        "embeddings"
    ]
    expected = Reference().iou(squares, neighbours=7, temperature=0.05)
    assert scores["IoU"] == pytest.approx(expected, abs=1e-12)
    assert scores["mIoU"] == pytest.approx(np.mean(expected))
    assert 0.3 < scores["mIoU"] < 1  # a trivial or perfect score would not test anything


@pytest.mark.slow
def test_augmentation_selection_and_gradients_equal_the_reference(squares: Path, tmp_path: Path) -> None:
    """There are two epochs of five images, and 15 patches per view. Rounding can change pixels between two classes."""
    flags = {"augmentation_epochs": 2, "memory_size": 150, "features": ("embeddings", "embeddings+simclr")}
    results = run(simple_settings(tmp_path, f"squares=masks:{squares}", **flags))["results"]
    (projection,) = (tmp_path / "projections").iterdir()
    references = {
        "embeddings": Reference(),
        "embeddings+simclr": Reference(load_projection(projection).dense().double()),
    }
    options = {"neighbours": 7, "temperature": 0.05, "epochs": 2, "keep": 15}
    expected = {name: reference.iou(squares, **options) for name, reference in references.items()}
    for name, scores in results.items():
        assert scores["IoU"] == pytest.approx(expected[name], abs=1e-3)
        assert 0.2 < scores["mIoU"] < 1
    assert expected["embeddings"] != pytest.approx(expected["embeddings+simclr"], abs=1e-2)


@pytest.mark.parametrize("feature", slow_after_first(["embeddings", "simclr", "embeddings+simclr"]))
def test_patches_of_training_images_have_themselves_as_nearest_neighbours(
    feature: str, squares: Path, tmp_path: Path
) -> None:
    """With one neighbour, a patch gets its own label, so that only pixels inside of mixed patches can be wrong."""
    settings = simple_settings(
        tmp_path, f"squares=masks:{squares}", features=(feature,), neighbours=1, split="train", input_size=48
    )
    assert run(settings)["results"][feature]["mIoU"] > 0.7
