"""`flowers102`: Oxford 102 Flowers, in torchvision's layout, with the official split of 1,020 training images."""

from fungi.data.base import register_dataset
from fungi.data.formats.torchvision_sets import TorchvisionDownload, TorchvisionImages
from fungi.data.places import Place

PLACE = Place(
    dataset="flowers102",
    folders=("flowers102", ""),
    needs=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
)


register_dataset(
    name="flowers102",
    title="Oxford 102 Flowers",
    classes=102,
    sizes={"train": 1020, "valid": 1020, "test": 6149},
    metric="mean-per-class-accuracy",
    open=TorchvisionImages("Flowers102", PLACE),
    download=TorchvisionDownload("Flowers102", PLACE.folders[0]),
)
