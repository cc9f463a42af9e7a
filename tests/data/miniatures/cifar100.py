"""CIFAR-100: like CIFAR-10, but with one file per split, and with coarse labels that must not be used."""

import pickle
from pathlib import Path

import pytest
import torchvision.datasets

from tests.data.miniatures.cifar10 import rows_of, write_batch
from tests.data.miniatures.miniature import Miniature, md5

CLASSES = ["apple", "aquarium_fish", "baby", "bear"]


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    folder = data_dir / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    splits = {"train": rows_of("train", count=8, classes=4), "test": rows_of("test", count=4, classes=4)}
    for split, rows in splits.items():
        write_batch(folder / split, rows, "fine_labels")
        content = pickle.loads((folder / split).read_bytes())
        (folder / split).write_bytes(pickle.dumps({**content, "coarse_labels": [0] * len(rows)}, protocol=2))
    meta = {"fine_label_names": CLASSES, "coarse_label_names": ["all"]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    cifar = torchvision.datasets.CIFAR100
    patch.setattr(cifar, "train_list", [["train", md5(folder / "train")]])
    patch.setattr(cifar, "test_list", [["test", md5(folder / "test")]])
    patch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(folder / "meta")})
    return Miniature(splits, class_names=CLASSES)
