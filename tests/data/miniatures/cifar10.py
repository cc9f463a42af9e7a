"""CIFAR-10: pickled dictionaries. `data` is uint8 `[n 3072]`, with a red, a green and a blue plane per row."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from tests.data.miniatures.miniature import Miniature, Row, colour_of, md5

CLASSES = ["airplane", "automobile", "bird"]


def write_batch(path: Path, rows: list[Row], key: str) -> None:
    """Write a batch file. key: name of the labels in the file."""
    planes = np.repeat(np.asarray([row.colour for row in rows], dtype=np.uint8), 32 * 32, axis=1)
    path.write_bytes(pickle.dumps({"data": planes, key: [row.label for row in rows]}, protocol=2))


def rows_of(split: str, count: int, classes: int) -> list[Row]:
    """Return rows whose labels are not sorted."""
    return [Row(f"{split}/{row}", (row * 2 + 1) % classes, colour_of(f"{split}/{row}")) for row in range(count)]


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    folder = data_dir / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    splits = {"train": rows_of("train", count=10, classes=3), "test": rows_of("test", count=3, classes=3)}
    for batch in range(5):
        write_batch(folder / f"data_batch_{batch + 1}", splits["train"][batch * 2 : batch * 2 + 2], "labels")
    write_batch(folder / "test_batch", splits["test"], "labels")
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}, protocol=2))
    cifar = torchvision.datasets.CIFAR10
    for name in ("train_list", "test_list"):
        patch.setattr(cifar, name, [[file, md5(folder / file)] for file, _ in getattr(cifar, name)])
    patch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(folder / "batches.meta")})
    return Miniature(splits, class_names=CLASSES)
