"""Datasets that torchvision's classes open and download."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fungi.data.base import Samples
from fungi.data.formats.archives import atomic_folder, is_there
from fungi.data.formats.image_files import image_samples
from fungi.data.places import Place, reading, relative
from fungi.errors import FungiError
from fungi.runtime.log import logger


@dataclass(frozen=True)
class TorchvisionImages:
    """Function that opens a split of image files in the order of torchvision.

    class_name: name of the dataset's class in torchvision. options: arguments of this class.
    """

    class_name: str
    place: Place
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __call__(self, data_dir: Path, split: str) -> Samples:
        """Return a split. The split `valid` has the name `val` in torchvision."""
        import torchvision.datasets

        root = self.place.find(data_dir)
        with reading(self.place, root):
            torchvision_split = {"valid": "val"}.get(split, split)
            source = getattr(torchvision.datasets, self.class_name)(str(root), split=torchvision_split, **self.options)
        return image_samples(root, relative(root, source._image_files), source._labels, source.classes)


@dataclass(frozen=True)
class TorchvisionDownload:
    """Function of the data directory that downloads, verifies and unpacks a dataset with torchvision.

    class_name: name of the dataset's class in torchvision. folder: path relative to the data directory.
    """

    class_name: str
    folder: str

    def __call__(self, data_dir: Path) -> None:
        """Download the dataset. Raises FungiError if the network fails or a checksum differs."""
        import torchvision.datasets

        target = data_dir.expanduser() / self.folder
        if is_there(target):
            return
        with atomic_folder(target) as work:
            try:
                getattr(torchvision.datasets, self.class_name)(str(work), download=True)
            except (OSError, RuntimeError) as error:
                raise FungiError(
                    f"torchvision can't download {self.class_name} ({error}). Run this on a machine with a network and "
                    f"copy the folder to {target}."
                ) from error
        logger.info("wrote %s", target)
