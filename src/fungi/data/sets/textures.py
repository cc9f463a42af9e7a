"""`textures`: the Describable Textures Dataset (DTD), partition 1, in torchvision's layout."""

from pathlib import Path

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.archives import TorchvisionDownload
from fungi.data.formats.image_files import image_samples
from fungi.data.places import Place, reading, relative

PLACE = Place(dataset="textures", folders=("textures", ""), needs=("dtd/dtd/images", "dtd/dtd/labels"))
_THEIR_SPLIT = {"train": "train", "valid": "val", "test": "test"}


def _open(data_dir: Path, split: str) -> Samples:
    from torchvision.datasets import DTD

    root = PLACE.find(data_dir)
    with reading(PLACE, root):
        source = DTD(str(root), split=_THEIR_SPLIT[split], partition=1)
    return image_samples(root, relative(root, source._image_files), source._labels, source.classes)


register_dataset(
    name="textures",
    title="Describable Textures (DTD)",
    classes=47,
    sizes={"train": 1880, "valid": 1880, "test": 1880},
    open=_open,
    download=TorchvisionDownload("DTD", PLACE.folders[0]),
)
