"""Read mask files: one image per sample with the class number of each pixel.

In images with a palette, the class is the index into the palette, not the colour. The values in masks of the user are
not always 0, 1, 2, ... Therefore, `class_values` reads all masks once and returns the value of each class.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int16, UInt8

from fungi.data.base import VOID, Samples
from fungi.data.content import READERS, digest_of_file
from fungi.data.formats.image_files import image_samples
from fungi.data.formats.image_folders import image_names
from fungi.data.names import PackedNames
from fungi.errors import FungiError, MissingFilesError, counted
from fungi.runtime.log import logger

if TYPE_CHECKING:
    from PIL.Image import Image


MAX_UNNAMED_CLASSES = 64
"""Largest number of classes without class names. A photograph or a smoothed mask contains more values than this."""


def read_mask(path: Path, sample_id: str) -> UInt8[np.ndarray, "h w"]:
    """Return the class numbers of a mask file. 255 is void; -1 is read as 255. Raises the errors of `mask_values`."""
    values = mask_values(path, sample_id)
    return np.where(values < 0, VOID, values).astype(np.uint8)


def mask_values(path: Path, sample_id: str) -> Int16[np.ndarray, "h w"]:
    """Return the values in a mask file, from -1 to 255.

    Raises MissingFilesError for a missing file, and FungiError for a file that can't be read, is a JPEG file, or
    contains colours, fractions, or numbers above 255 or below -1. Errors name the file and the sample.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            file_format, mode, values = image.format, image.mode, np.asarray(image)
    except FileNotFoundError:
        raise MissingFilesError(f"sample {sample_id!r} has no mask: there is no file {path}. Put it there.") from None
    except Exception as error:  # damaged files make decoders raise nearly anything
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise FungiError(f"sample {sample_id!r}: can't read the mask {path} ({cause}). Replace the file.") from error
    subject = f"sample {sample_id!r}: the mask {path}"
    if file_format in ("JPEG", "MPO"):
        raise FungiError(f"{subject} is a JPEG file, which does not keep class numbers exactly. Save masks as PNG.")
    if values.ndim != 2:
        raise FungiError(
            f"{subject} contains colours ({mode}), not class numbers. Save it with one channel, as a grey or palette "
            "PNG."
        )
    if values.dtype.kind == "f":
        is_whole = np.isfinite(values) & (values == np.rint(values))
        if not is_whole.all():
            first = values[~is_whole][0]
            raise FungiError(
                f"{subject} contains {first:.6g}, which is not a whole number. Save it with whole numbers."
            )
    smallest, largest = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if smallest < -1 or largest > VOID:
        value = smallest if smallest < -1 else largest
        raise FungiError(f"{subject} contains {value}. Masks contain values from 0 to {VOID}, or -1 for void.")
    return values.astype(np.int16)


@cache
def class_values(root: Path, folders: tuple[str, ...], named_classes: int | None) -> tuple[int, ...]:
    """Return the value of each class in the masks of `root/<folder>/masks`, in the order of the classes.

    named_classes: number of class names. The values are then 0 to `named_classes` - 1. None: the classes have no names.
        Then each value in the masks is a class, except the void values 255 and -1.
    Masks that contain only 0 and 255 are an exception: without class names, or with two class names, the values of the
    classes are 0 and 255.
    All masks are read once per process. A warning lists the values if they are not 0, 1, 2, ..., or include -1.
    Raises FungiError for more than 64 values without names, because so many values are colours or grey levels.
    """
    all_values = _values_in_masks([root / folder / "masks" for folder in folders])
    if -1 in all_values:
        logger.warning(f"{root}: the masks contain {value_list(all_values)}. Pixels of value -1 are void, like {VOID}.")
    if all_values == [0, VOID] and named_classes in (None, 2):
        logger.warning(f"{root}: the masks contain only 0 and {VOID}. {VOID} is class 1, and no pixel is void.")
        return (0, VOID)
    values = [value for value in all_values if value not in (-1, VOID)]
    if named_classes is not None:
        return tuple(range(named_classes))
    if len(values) > MAX_UNNAMED_CLASSES:
        raise FungiError(
            f"the masks in {root} contain {len(values)} values ({value_list(values)}), too many for classes without "
            f"names. Save masks as PNG without smoothing, or name the classes, one per line, in {root / 'classes.txt'}."
        )
    if values != list(range(len(values))):
        logger.warning(f"{root}: the masks have {counted(len(values), 'class')}, named by value: {value_list(values)}.")
    return tuple(values)


def _values_in_masks(folders: Sequence[Path]) -> list[int]:
    """Return the values that occur in the masks of folders, ascending, from -1 to 255."""

    def occurs(path: Path, name: str) -> np.ndarray:
        """Return whether each value from -1 to 255 occurs in a mask, bool `[257]`."""
        return np.bincount(mask_values(path, name).reshape(-1) + 1, minlength=VOID + 2) > 0  # value -1 -> index 0

    files = [(folder / name, name) for folder in folders for name in image_names(folder)]
    with ThreadPoolExecutor(READERS) as pool:
        occurs_in_files = list(pool.map(lambda file: occurs(*file), files))
    occurs_anywhere = np.logical_or.reduce([np.zeros(VOID + 2, bool), *occurs_in_files])
    return (np.flatnonzero(occurs_anywhere) - 1).tolist()


def value_list(values: Sequence[int]) -> str:
    """Return a list of values for a message. If there are more than 12 values, list only the first 6 and the last 3."""
    return ", ".join(map(str, values if len(values) <= 12 else [*values[:6], "...", *values[-3:]]))


@dataclass(frozen=True)
class MaskFiles:
    """Function: row -> mask in the file `root / paths[row]`.

    ids: sample ids, for errors. class_values: value of each class in the files; if empty, the values are the class
    numbers.
    """

    root: Path
    paths: Sequence[str]
    ids: Sequence[str]
    class_values: tuple[int, ...] = ()

    def __call__(self, row: int) -> UInt8[np.ndarray, "h w"]:
        """Return the mask of a row. Raises the errors of `read_mask`."""
        mask = read_mask(self.root / self.paths[row], self.ids[row])
        if self._are_class_numbers:
            return mask
        class_of_value = np.full(VOID + 1, VOID, dtype=np.uint8)
        class_of_value[list(self.class_values)] = range(len(self.class_values))
        return class_of_value[mask]

    def content(self, row: int) -> bytes:
        """Return a digest of the mask file of a row and of the values of the classes."""
        digest = digest_of_file(self.root / self.paths[row], self.ids[row])
        return digest if self._are_class_numbers else digest + bytes(self.class_values)

    @property
    def _are_class_numbers(self) -> bool:
        """Whether the values in the files are the class numbers 0, 1, 2, ..."""
        return self.class_values == tuple(range(len(self.class_values)))


def mask_names(folder: Path, images: Sequence[str]) -> list[str]:
    """Return `masks/<name>` for each image of `folder/images`.

    An image and its mask have the same name, except for the ending. Raises MissingFilesError with the first image that
    does not have a mask.
    """
    masks = {_without_ending(name): name for name in image_names(folder / "masks")}
    for name in images:
        if _without_ending(name) not in masks:
            expected = (folder / "masks" / name).with_suffix(".png")
            raise MissingFilesError(f"image {folder / 'images' / name} has no mask. Put one at {expected}.")
    return [f"masks/{masks[_without_ending(name)]}" for name in images]


def _without_ending(name: str) -> str:
    return str(Path(name).with_suffix(""))


def masked_samples(
    root: Path,
    images: Sequence[str],
    masks: Sequence[str],
    class_names: Sequence[str],
    *,
    class_values: tuple[int, ...] = (),
    as_displayed: bool = False,
) -> Samples:
    """Return a split of images and masks. The samples have no labels; all targets are 0.

    images, masks: paths relative to `root`. class_values: as in `MaskFiles`. as_displayed: as in `decode`; it changes
    only the images.
    """
    labels = np.zeros(len(images), dtype=np.uint32)
    samples = image_samples(root, images, labels, class_names, as_displayed=as_displayed)
    return replace(samples, mask=MaskFiles(root, PackedNames(masks), samples.ids, class_values))


def check_mask(mask: UInt8[np.ndarray, "h w"], image: "Image", classes: int, sample_id: str) -> None:
    """Raise FungiError if a mask and its image differ in size, or if the mask has unknown classes or only void pixels.

    classes: number of classes.
    """
    if mask.shape != (image.height, image.width):
        raise FungiError(
            f"sample {sample_id!r}: its mask has {mask.shape[1]} x {mask.shape[0]} pixels, its image {image.width} x "
            f"{image.height}. Replace the mask; it must have the size of the image in an image viewer."
        )
    values = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=VOID + 1)).tolist()
    if unknown := [value for value in values if value >= classes and value != VOID]:
        raise FungiError(
            f"sample {sample_id!r}: its mask contains {unknown[0]}, but there are {classes} classes, from 0 to "
            f"{classes - 1}; {VOID} is void."
        )
    if values == [VOID]:
        raise FungiError(f"sample {sample_id!r}: its mask is void ({VOID}) everywhere. Remove it from the split.")
