"""`textures`: the Describable Textures Dataset (DTD), partition 1, in torchvision's layout."""

from fungi.data.base import register_dataset
from fungi.data.formats.torchvision_sets import TorchvisionDownload, TorchvisionImages
from fungi.data.places import Place

PLACE = Place(dataset="textures", folders=("textures", ""), needs=("dtd/dtd/images", "dtd/dtd/labels"))


register_dataset(
    name="textures",
    title="Describable Textures (DTD)",
    classes=47,
    sizes={"train": 1880, "valid": 1880, "test": 1880},
    open=TorchvisionImages("DTD", PLACE, {"partition": 1}),
    download=TorchvisionDownload("DTD", PLACE.folders[0]),
)
