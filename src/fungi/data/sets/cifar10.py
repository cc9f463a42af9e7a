"""`cifar10`: 60,000 colour images of 32 x 32 in 10 classes, in torchvision's layout."""

from pathlib import Path
from typing import Any

import numpy as np

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.image_files import ImageArray
from fungi.data.formats.torchvision_sets import TorchvisionDownload
from fungi.data.names import PackedNames
from fungi.data.places import Place, reading

PLACE = Place(dataset="cifar10", folders=("cifar10", ""), needs=("cifar-10-batches-py",))


def cifar_samples(source: Any, split: str) -> Samples:
    """Return the samples of a CIFAR object of torchvision; ids are the split and the row."""
    return Samples(
        targets=np.asarray(source.targets, dtype=np.uint32),
        ids=PackedNames(f"{split}/{row}" for row in range(len(source.targets))),
        load=ImageArray(source.data),
        class_names=tuple(source.classes),
    )


def _open(data_dir: Path, split: str) -> Samples:
    from torchvision.datasets import CIFAR10

    root = PLACE.find(data_dir)
    with reading(PLACE, root):
        return cifar_samples(CIFAR10(str(root), train=split == "train"), split)


register_dataset(
    name="cifar10",
    title="CIFAR-10",
    classes=10,
    sizes={"train": 50000, "test": 10000},
    open=_open,
    download=TorchvisionDownload("CIFAR10", PLACE.folders[0]),
)
