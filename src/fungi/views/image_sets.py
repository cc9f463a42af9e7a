"""Images of the user (a list, a torch dataset of (image, label), a `datasets` dataset) as `Samples`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fungi.data.base import Samples
from fungi.data.formats.image_files import to_rgb
from fungi.errors import FungiError


@dataclass(frozen=True)
class _CollectionImages:
    """Function: row -> RGB image of a collection."""

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

    collection: object with a length. Its items are images, pairs (image, label), or dictionaries with a key `image` or
    `img`. Raises FungiError for a collection without a length or without items. An item without an image raises
    FungiError only when this item is loaded.
    """
    try:
        count = len(collection)
    except TypeError:
        raise FungiError(
            f"a {type(collection).__name__} has no length; give a list of images or a map-style dataset."
        ) from None
    if not count:
        raise FungiError("the dataset is empty; at least one image is needed.")
    return Samples(targets=np.zeros(count, dtype=np.uint32), ids=row_names(count), load=_CollectionImages(collection))


@dataclass(frozen=True)
class _ConcatenatedImages:
    """Function: row -> image of two sets, one after the other."""

    first: Samples
    second: Samples

    def __call__(self, row: int) -> Image.Image:
        is_in_first = row < len(self.first)
        return self.first.load(row) if is_in_first else self.second.load(row - len(self.first))


def concatenated(first: Samples, second: Samples) -> Samples:
    """Return the samples of the first set, followed by the samples of the second set. Labels are not kept."""
    count = len(first) + len(second)
    targets = np.zeros(count, dtype=np.uint32)
    return Samples(targets=targets, ids=row_names(count), load=_ConcatenatedImages(first, second))


def row_names(count: int) -> list[str]:
    """Return row numbers as ids, for images without ids. The pixels of an image seed its views, not this id."""
    return [str(row) for row in range(count)]


def rgb(item: Any, place: str) -> Image.Image:
    """Return a PIL image as RGB. An RGB image is returned without a copy. place: description of the item for errors.

    Raises FungiError if the item is not a PIL image.
    """
    if not isinstance(item, Image.Image):
        raise FungiError(
            f"{place} is a {type(item).__name__}, not a PIL image. Give images as they are, without a transform: each "
            "objective makes its own views."
        )
    try:
        return item if item.mode == "RGB" else to_rgb(item)
    except FungiError as error:
        raise FungiError(f"{place}: {error}.") from None
