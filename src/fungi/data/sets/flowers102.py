"""`flowers102`: Oxford 102 Flowers, in torchvision's layout; the published split with 1,020 training images."""

from pathlib import Path

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.archives import TorchvisionDownload
from fungi.data.formats.image_files import image_samples
from fungi.data.places import Place, reading, relative

PLACE = Place(
    dataset="flowers102",
    folders=("flowers102", ""),
    needs=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
)
_THEIR_SPLIT = {"train": "train", "valid": "val", "test": "test"}


def _open(data_dir: Path, split: str) -> Samples:
    from torchvision.datasets import Flowers102

    root = PLACE.find(data_dir)
    with reading(PLACE, root):
        source = Flowers102(str(root), split=_THEIR_SPLIT[split])
    return image_samples(root, relative(root, source._image_files), source._labels, source.classes)


register_dataset(
    name="flowers102",
    title="Oxford 102 Flowers",
    classes=102,
    sizes={"train": 1020, "valid": 1020, "test": 6149},
    metric="mean-per-class-accuracy",
    open=_open,
    download=TorchvisionDownload("Flowers102", PLACE.folders[0]),
)
