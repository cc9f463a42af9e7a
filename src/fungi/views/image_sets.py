"""Images of the user (a list, a torch dataset of (image, label), a `datasets` dataset) as `Samples`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fungi.data.base import Samples
from fungi.data.formats.image_files import to_rgb
from fungi.errors import FungiError


@dataclass(frozen=True)
class _Item:
    """Row -> RGB image of a collection."""

    collection: Any

    def __call__(self, row: int) -> Image.Image:
        item = self.collection[row]
        if isinstance(item, dict):
            item = item.get("image", item.get("img"))
        elif isinstance(item, tuple | list):
            item = item[0]
        return rgb(item, f"item {row} of the dataset")


def as_samples(collection: Any) -> Samples:
    """Return the images of a collection in its order; labels are not read.

    collection: has a length; its items are images, pairs (image, label), or dicts with an `image` (or `img`).
    Raises FungiError for an item without an image when the item is loaded.
    """
    try:
        count = len(collection)
    except TypeError:
        raise FungiError(
            f"a {type(collection).__name__} has no length; give a list of images or a map-style dataset."
        ) from None
    if not count:
        raise FungiError("the dataset is empty; at least one image is needed.")
    return Samples(targets=np.zeros(count, dtype=np.uint32), ids=range_names(count), load=_Item(collection))


@dataclass(frozen=True)
class _Joined:
    first: Samples
    second: Samples

    def __call__(self, row: int) -> Image.Image:
        inside = row < len(self.first)
        return self.first.load(row) if inside else self.second.load(row - len(self.first))


def joined(first: Samples, second: Samples) -> Samples:
    """Return the samples of one set, then those of the other."""
    count = len(first) + len(second)
    return Samples(targets=np.zeros(count, dtype=np.uint32), ids=range_names(count), load=_Joined(first, second))


def range_names(count: int) -> list[str]:
    """Return the row numbers as ids, for rows without ids. Views of such images are seeded by their pixels."""
    return [str(row) for row in range(count)]


def rgb(item: Any, where: str) -> Image.Image:
    """Return the image in three channels, without a copy where it has them. FungiError for what is no PIL image."""
    if not isinstance(item, Image.Image):
        raise FungiError(
            f"{where} is a {type(item).__name__}, not a PIL image. Give images as they are, without a transform: each "
            "objective makes its own views."
        )
    try:
        return item if item.mode == "RGB" else to_rgb(item)
    except FungiError as error:
        raise FungiError(f"{where}: {error}.") from None
