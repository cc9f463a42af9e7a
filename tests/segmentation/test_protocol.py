"""The whole protocol against a plain reference: every patch kept, one query at a time, float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.backbones.loading import load_backbone
from fungi.segmentation.dense import at_input_size
from fungi.segmentation.segment import run
from fungi.segmentation.settings import SegmentSettings
from tests.daily import first_fast
from tests.segmentation.own_masks import write_dataset

SIZE, PATCH, CLASSES = 40, 4, 3


def plain(root: Path, dataset: str, **flags) -> SegmentSettings:
    """Images as they are, every patch kept: nothing is drawn."""
    usual = {"memory_size": 0, "augmentation_epochs": 0, "input_size": SIZE, "neighbours": 7, "temperature": 0.05}
    return SegmentSettings(root=root, dataset=dataset, **{**usual, **flags})


def read(root: Path, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image in 0..1 and mask of a split, both at the input's size."""
    found = []
    for path in sorted((root / split / "images").iterdir()):
        image = Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        mask = np.asarray(Image.open(root / split / "masks" / path.name))
        rows, columns = (np.arange(SIZE) * extent // SIZE for extent in mask.shape)
        found.append((np.asarray(image) / 255, mask[np.ix_(rows, columns)]))
    return found


def patch_features(model, image: np.ndarray) -> np.ndarray:
    """Normalised tokens without the class token."""
    pixels = torch.from_numpy((image - 0.5) / 0.5).permute(2, 0, 1)[None]
    tokens = model.forward_features(pixels)[0, 1:]
    return (tokens / tokens.norm(dim=1, keepdim=True)).numpy()


def patch_label(mask: np.ndarray, row: int, column: int) -> np.ndarray:
    cell = mask[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
    return np.array([(cell == name).sum() / PATCH**2 for name in range(CLASSES)])


@torch.no_grad()
def reference_iou(root: Path, neighbours: int, temperature: float) -> list[float]:
    """IoU per class, from loops."""
    model = load_backbone("digits-vit").model
    at_input_size(model, SIZE)
    model.double()
    side = SIZE // PATCH
    keys, labels = [], []
    for image, mask in read(root, "train"):
        keys.append(patch_features(model, image))
        labels += [patch_label(mask, row, column) for row in range(side) for column in range(side)]
    keys = np.concatenate(keys)
    table = np.zeros((CLASSES, CLASSES))
    for image, mask in read(root, "test"):
        votes = np.zeros((CLASSES, side, side))
        for place, query in enumerate(patch_features(model, image)):
            cosines = keys @ query
            near = np.argsort(-cosines)[:neighbours]
            weights = np.exp((cosines[near] - cosines[near[0]]) / temperature)
            votes[:, place // side, place % side] = (
                sum(w * labels[row] for w, row in zip(weights, near, strict=True)) / weights.sum()
            )
        maps = torch.nn.functional.interpolate(torch.from_numpy(votes)[None], (SIZE, SIZE), mode="bilinear")
        for truth, guess in zip(mask.flatten(), maps[0].argmax(0).flatten().tolist(), strict=True):
            if truth != 255:
                table[truth, guess] += 1
    return [table[c, c] / (table[c].sum() + table[:, c].sum() - table[c, c]) for c in range(CLASSES)]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("squares")
    write_dataset(root, size=(50, 44))
    return root


def test_iou_of_every_class_is_that_of_the_plain_reference(squares: Path, tmp_path: Path) -> None:
    scores = run(plain(tmp_path, f"squares=masks:{squares}", features=("embeddings",)))["results"]["embeddings"]
    expected = reference_iou(squares, 7, 0.05)
    assert scores["IoU"] == pytest.approx(expected, abs=1e-12)
    assert scores["mIoU"] == pytest.approx(np.mean(expected))
    assert 0.3 < scores["mIoU"] < 1  # neither trivial nor perfect, or the comparison would say nothing


@pytest.mark.parametrize("feature", first_fast(["embeddings", "simclr", "embeddings+simclr"]))
def test_training_images_find_themselves(feature: str, squares: Path, tmp_path: Path) -> None:
    """With one neighbour, a training image's patches find their own labels: all that is lost is within patches."""
    settings = plain(
        tmp_path, f"squares=masks:{squares}", features=(feature,), neighbours=1, split="train", input_size=48
    )
    assert run(settings)["results"][feature]["mIoU"] > 0.7
