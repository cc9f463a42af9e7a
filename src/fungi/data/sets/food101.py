"""`food101`: photographs of 101 dishes, in torchvision's layout; row order is that of `meta/<split>.json`."""

from pathlib import Path

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.archives import TorchvisionDownload
from fungi.data.formats.image_files import image_samples
from fungi.data.places import Place, reading, relative

PLACE = Place(dataset="food101", folders=("food101", "food", ""), needs=("food-101/images", "food-101/meta"))


def _open(data_dir: Path, split: str) -> Samples:
    from torchvision.datasets import Food101

    root = PLACE.find(data_dir)
    with reading(PLACE, root):
        source = Food101(str(root), split=split)
    return image_samples(root, relative(root, source._image_files), source._labels, source.classes)


register_dataset(
    name="food101",
    title="Food-101",
    classes=101,
    sizes={"train": 75750, "test": 25250},
    open=_open,
    download=TorchvisionDownload("Food101", PLACE.folders[0]),
)
