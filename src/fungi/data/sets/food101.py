"""`food101`: photographs of 101 dishes, in torchvision's layout; rows are in the order of `meta/<split>.json`."""

from fungi.data.base import register_dataset
from fungi.data.formats.torchvision_sets import TorchvisionDownload, TorchvisionImages
from fungi.data.places import Place

PLACE = Place(dataset="food101", folders=("food101", "food", ""), needs=("food-101/images", "food-101/meta"))


register_dataset(
    name="food101",
    title="Food-101",
    classes=101,
    sizes={"train": 75750, "test": 25250},
    open=TorchvisionImages("Food101", PLACE),
    download=TorchvisionDownload("Food101", PLACE.folders[0]),
)
