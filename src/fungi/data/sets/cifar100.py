"""`cifar100`: 60,000 colour images of 32 x 32 in 100 (fine) classes, in torchvision's layout."""

from pathlib import Path

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.torchvision_sets import TorchvisionDownload
from fungi.data.places import Place, reading
from fungi.data.sets.cifar10 import cifar_samples

PLACE = Place(dataset="cifar100", folders=("cifar100", ""), needs=("cifar-100-python",))


def _open(data_dir: Path, split: str) -> Samples:
    from torchvision.datasets import CIFAR100

    root = PLACE.find(data_dir)
    with reading(PLACE, root):
        return cifar_samples(CIFAR100(str(root), train=split == "train"), split)


register_dataset(
    name="cifar100",
    title="CIFAR-100",
    classes=100,
    sizes={"train": 50000, "test": 10000},
    open=_open,
    download=TorchvisionDownload("CIFAR100", PLACE.folders[0]),
)
