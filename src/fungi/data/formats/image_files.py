"""Read image files as RGB images, and create splits from them. Errors name the file and the sample."""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Integer, UInt8

from fungi.data.base import Samples
from fungi.data.content import digest_of_file, digest_of_item, no_such_file
from fungi.data.names import PackedNames
from fungi.errors import FungiError

if TYPE_CHECKING:
    from PIL.Image import Image

AS_DISPLAYED = "EXIF orientation applied, transparency on white"
"""Treatment of the user's images, which are read as image viewers show them. This text is part of the fingerprint."""
LARGEST_RATIO = 100
"""Largest accepted ratio of the sides of an image. A narrower image would need gigabytes after it is resized."""

_PILLOW_FLAG_LOCK = threading.Lock()


def decode(
    source: Path | bytes, sample_id: str, *, place: str = "", truncated: bool = False, as_displayed: bool = False
) -> "Image":
    """Return an image as RGB. source: path of a file, or the bytes of a file.

    place: description of the source for errors; by default the path of the file.
    truncated: accept a truncated file, and fill the missing pixels with grey.
    as_displayed: apply the EXIF orientation, and put transparent parts on white, like an image viewer.
    Raises MissingFilesError for a missing file and FungiError for a damaged file; both errors name the file.
    """
    from PIL import Image, UnidentifiedImageError

    place = place or str(source)
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise FungiError(f"sample {sample_id!r}: {place} is not a file but a folder, a pipe or a device. Remove it.")
    try:
        with (
            _truncated_files(truncated),
            Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image,
        ):
            if max(image.size) > LARGEST_RATIO * min(image.size):
                raise FungiError(f"it has {image.width:,} x {image.height:,} pixels, which is too narrow for an image")
            return _upright(to_rgb(_on_white(image)), _orientation(image)) if as_displayed else to_rgb(image)
    except FileNotFoundError:
        raise no_such_file(place, sample_id) from None
    except UnidentifiedImageError as error:
        raise FungiError(
            f"sample {sample_id!r}: can't read {place} (no known image format). Replace the file."
        ) from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise FungiError(f"sample {sample_id!r}: can't read {place} ({cause}). Replace the file.") from error


def _orientation(image: "Image") -> int:
    """Return the EXIF orientation of an image; 1 (upright) if it has none, or if its EXIF data can't be read."""
    from PIL import ExifTags

    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data make the parser raise nearly anything, but the pixels may be correct
        return 1
    return orientation if isinstance(orientation, int) else 1


def _upright(image: "Image", orientation: int) -> "Image":
    """Return an image, rotated or mirrored as its EXIF orientation (1 to 8) requires."""
    from PIL.Image import Transpose

    operations = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(operations[orientation]) if orientation in operations else image


def _on_white(image: "Image") -> "Image":
    """Return an image with a white background behind its transparent parts."""
    from PIL import Image

    if not image.has_transparency_data or image.mode.startswith("I"):
        return image
    background = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def to_rgb(image: "Image") -> "Image":
    """Return an image of any mode as RGB. Transparency is dropped; 16-bit grey keeps its upper 8 bits.

    Raises FungiError if the range of grey values is unknown. This is the case for floating-point numbers, and for
    32-bit integers whose largest value does not show that they have 16 bits.
    """
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode == "F":
        raise FungiError("its grey values are fractions, so the value of white is unknown; save 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: "Image") -> np.ndarray:
    """Return the upper 8 bits of 16-bit grey values.

    Pillow returns 16-bit PGM files with 32 bits (mode `I`). Raises FungiError for other images of mode `I`, unless
    their largest value shows that they have 16 bits.
    """
    values = np.asarray(image)
    if image.mode == "I" and image.format != "PPM" and not (values.min() >= 0 and 255 < values.max() < 1 << 16):
        raise FungiError(
            f"its grey values are whole numbers from {values.min()} to {values.max()} and may have 8, 16 or 32 bits; "
            "save them as uint8 or uint16"
        )
    return (values >> 8).astype(np.uint8)


@contextmanager
def _truncated_files(allowed: bool) -> Iterator[None]:
    """Let Pillow accept truncated files inside the `with` statement if `allowed` is true.

    Pillow has one global flag, so a lock lets only one thread at a time set the flag.
    """
    from PIL import ImageFile

    if not allowed:
        yield
        return
    with _PILLOW_FLAG_LOCK:
        previous = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = previous


@dataclass(frozen=True)
class ImageFiles:
    """Function: row -> RGB image of the file `root / paths[row]`. The path is the id of the sample.

    truncated, as_displayed: as in `decode`.
    """

    root: Path
    paths: Sequence[str]
    truncated: bool = False
    as_displayed: bool = False

    def __call__(self, row: int) -> "Image":
        """Return the image of a row. Raises the errors of `decode`."""
        name = self.paths[row]
        return decode(self.root / name, name, truncated=self.truncated, as_displayed=self.as_displayed)

    def content(self, row: int) -> bytes:
        """Return a digest of the file, without decoding it."""
        name = self.paths[row]
        return digest_of_file(self.root / name, name)


@dataclass(frozen=True)
class ImageArray:
    """Function: row -> RGB image of an array of grey or colour images."""

    images: UInt8[np.ndarray, "n h w *c"]

    def __call__(self, row: int) -> "Image":
        """Return the image of a row."""
        from PIL import Image

        return Image.fromarray(self.images[row]).convert("RGB")

    def content(self, row: int) -> bytes:
        """Return a digest of the image."""
        return digest_of_item(self.images[row])


def image_samples(
    root: Path,
    paths: Sequence[str],
    labels: Sequence[int] | Integer[np.ndarray, " n"],
    class_names: Sequence[str] = (),
    *,
    truncated: bool = False,
    as_displayed: bool = False,
) -> Samples:
    """Return a split of image files.

    paths: paths relative to `root`, with forward slashes; they are the sample ids. truncated, as_displayed: as in
    `decode`.
    """
    ids = PackedNames(paths)
    return Samples(
        targets=np.asarray(labels, dtype=np.uint32),
        ids=ids,
        load=ImageFiles(root, ids, truncated, as_displayed),
        class_names=tuple(class_names),
        treatment=AS_DISPLAYED if as_displayed else "",
    )
