"""Masks on disk: one image per sample whose pixels hold class numbers. Palettes are read as numbers, not colours."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from fungi.data.base import VOID, Samples
from fungi.data.content import digest_of_file
from fungi.data.formats.image_files import image_names, image_samples
from fungi.data.names import PackedNames
from fungi.errors import FungiError, MissingFilesError

if TYPE_CHECKING:
    from PIL.Image import Image


def read_mask(path: Path, sample_id: str) -> UInt8[np.ndarray, "h w"]:
    """The class numbers of a mask file.

    MissingFilesError for one that is not there; FungiError for one that can't be read, holds colours, or numbers above
    255. Each names the file and the sample.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except FileNotFoundError:
        raise MissingFilesError(f"sample {sample_id!r} has no mask: there is no file {path}. Put it there.") from None
    except Exception as error:  # damaged files make decoders raise nearly anything
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise FungiError(f"sample {sample_id!r}: can't read the mask {path} ({cause}). Replace the file.") from error
    if values.ndim != 2:
        raise FungiError(
            f"sample {sample_id!r}: the mask {path} holds colours ({image.mode}); class numbers of one channel are "
            "needed, as in a grey or a palette PNG."
        )
    if values.size and int(values.max()) > VOID:
        raise FungiError(f"sample {sample_id!r}: the mask {path} holds {values.max()}; {VOID} is the largest value.")
    return values.astype(np.uint8)


@dataclass(frozen=True)
class MaskFiles:
    """Row -> the mask in the file `root / paths[row]`; `ids` name the samples in errors."""

    root: Path
    paths: Sequence[str]
    ids: Sequence[str]

    def __call__(self, row: int) -> UInt8[np.ndarray, "h w"]:
        """The mask; errors as for `read_mask`."""
        return read_mask(self.root / self.paths[row], self.ids[row])

    def content(self, row: int) -> bytes:
        """What is in the file of a row."""
        return digest_of_file(self.root / self.paths[row], self.ids[row])


def mask_names(folder: Path, images: Sequence[str]) -> list[str]:
    """`masks/<name>` for each image of `folder/images`: the file in `folder/masks` of the same name but for its ending.

    MissingFilesError that names the first image without one.
    """
    there = {str(Path(name).with_suffix("")): name for name in image_names(folder / "masks")}
    for name in images:
        if str(Path(name).with_suffix("")) not in there:
            wanted = (folder / "masks" / name).with_suffix(".png")
            raise MissingFilesError(f"image {folder / 'images' / name} has no mask. Put one at {wanted}.")
    return [f"masks/{there[str(Path(name).with_suffix(''))]}" for name in images]


def masked_samples(root: Path, images: Sequence[str], masks: Sequence[str], class_names: Sequence[str]) -> Samples:
    """A split of images and masks; paths are relative to `root`. Samples have no label: their targets are 0."""
    samples = image_samples(root, images, np.zeros(len(images), dtype=np.uint32), class_names)
    return replace(samples, mask=MaskFiles(root, PackedNames(masks), samples.ids))


def check_mask(
    mask: UInt8[np.ndarray, "h w"], image: "Image", classes: int, sample_id: str, *, ignored: int = VOID
) -> None:
    """FungiError for a mask that does not belong to its image, names no such class, or has nothing but `ignored`."""
    if mask.shape != (image.height, image.width):
        raise FungiError(
            f"sample {sample_id!r}: its mask has {mask.shape[1]} x {mask.shape[0]} pixels, its image {image.width} x "
            f"{image.height}. Replace the mask."
        )
    present = np.flatnonzero(np.bincount(mask.reshape(-1), minlength=VOID + 1)).tolist()
    if foreign := [value for value in present if value >= classes and value != VOID]:
        raise FungiError(
            f"sample {sample_id!r}: its mask holds {foreign[0]}, but there are {classes} classes, from 0 to "
            f"{classes - 1}; {VOID} is void."
        )
    if present == [VOID] or (present == [ignored] and ignored == VOID):
        raise FungiError(f"sample {sample_id!r}: its mask is void ({VOID}) everywhere. Take it out of the split.")
