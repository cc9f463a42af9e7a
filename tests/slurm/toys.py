"""Data of a few rows for the job files: class folders, a saved dataset, masks, and miniatures of published datasets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.miniatures import esc_50
from tests.data.miniatures.oxford_landmarks import make_landmarks

WORDS = ("river", "engine", "violin", "garden")
"""Names of the classes of the texts. Each text repeats the word of its class."""
PER_CLASS = {"train": 6, "test": 3}
"""Split -> number of rows per class."""


def write_toys(folder: Path) -> dict[str, str]:
    """Write all toys below a folder, and return kind of toy -> value for `--dataset`."""
    _write_pictures(folder / "pictures")
    _write_texts(folder / "texts")
    _write_scenes(folder / "scenes")
    make_landmarks(folder, "roxford5k")
    esc_50.make(folder, pytest.MonkeyPatch())
    return {
        "pictures": f"pictures=folder:{folder / 'pictures'}",
        "texts": f"texts=hf:{folder / 'texts'}",
        "scenes": f"scenes=masks:{folder / 'scenes'}",
        "landmarks": "oxford-landmarks",
        "sounds": "esc-50",
    }


def _write_pictures(folder: Path) -> None:
    """Write four classes of noise. Each class has its own colours."""
    generator = np.random.default_rng(0)
    for split, count in PER_CLASS.items():
        for label in range(4):
            for number in range(count):
                path = folder / split / f"class-{label}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(60 * label, 60 * label + 60, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)


def _write_texts(folder: Path) -> None:
    """Write a saved dataset of the library `datasets`, with twice as many rows per class as pictures."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=list(WORDS))})

    def rows(split: str, count: int) -> Dataset:
        labels = [label for label in range(len(WORDS)) for _ in range(count)]
        texts = [f"the {WORDS[label]} number {row} of the {split} {WORDS[label]}" for row, label in enumerate(labels)]
        return Dataset.from_dict({"text": texts, "label": labels}, features=features)

    DatasetDict({split: rows(split, 2 * count) for split, count in PER_CLASS.items()}).save_to_disk(str(folder))


def _write_scenes(folder: Path) -> None:
    """Write pictures whose halves have different classes."""
    generator = np.random.default_rng(0)
    for split, count in PER_CLASS.items():
        for number in range(count):
            mask = np.zeros((32, 32), dtype=np.uint8)
            mask[:, 16:] = 1 + number % 2
            pixels = (80 * mask[..., None] + generator.integers(0, 80, (32, 32, 3))).astype(np.uint8)
            for kind, array in (("images", pixels), ("masks", mask)):
                path = folder / split / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
