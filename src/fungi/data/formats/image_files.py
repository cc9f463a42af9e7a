"""Images on disk -> RGB images, and splits made of them. What can't be read says which file and which sample."""

import io
import os
import threading
from collections import Counter
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
from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.log import logger

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""Files that are read; of a moving picture, its first one."""
UNREAD_ENDINGS = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd", ".cr2", ".nef", ".dng", ".arw")
"""Pictures of formats that are not read; they are named where they are met."""

_FLAG = threading.Lock()


def decode(source: Path | bytes, sample_id: str, *, place: str = "", truncated: bool = False) -> "Image":
    """The RGB image in a file or in memory.

    place: where the image is, for the error's text; the path where it is a file.
    truncated: fill what is missing at the end of the file with grey instead of refusing it.
    Raises MissingFilesError for a file that isn't there, FungiError for one that can't be read; both name it.
    """
    from PIL import Image, UnidentifiedImageError

    place = place or str(source)
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise FungiError(f"sample {sample_id!r}: {place} is no file but a folder, a pipe or a device. Remove it.")
    try:
        with (
            _truncated_files(truncated),
            Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image,
        ):
            return to_rgb(image)
    except FileNotFoundError:
        raise no_such_file(place, sample_id) from None
    except UnidentifiedImageError as error:
        raise FungiError(
            f"sample {sample_id!r}: can't read {place} (no known image format). Replace the file."
        ) from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise FungiError(f"sample {sample_id!r}: can't read {place} ({cause}). Replace the file.") from error


def to_rgb(image: "Image") -> "Image":
    """An image of any mode as RGB. Transparency is dropped; 16-bit grey keeps its upper 8 bits.

    FungiError for grey values of which nothing says what is white: fractions, and whole numbers beyond 16 bits.
    """
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode == "F":
        raise FungiError("its grey values are fractions, of which nothing says what is white; give 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: "Image") -> np.ndarray:
    """Grey values of 16 bits in 8. Pillow gives 16 bits as 32 (mode `I`) for PGM files, and whatever was put there for
    arrays of whole numbers: those have to show by their size that they are 16 bits."""
    values = np.asarray(image)
    if image.mode == "I" and image.format != "PPM" and not (values.min() >= 0 and 255 < values.max() < 1 << 16):
        raise FungiError(
            f"its grey values are whole numbers of {values.min()} to {values.max()}, which may be 8, 16 or 32 bits; "
            "give them as uint8 or uint16"
        )
    return (values >> 8).astype(np.uint8)


@contextmanager
def _truncated_files(allowed: bool) -> Iterator[None]:
    """Pillow's tolerance is a global flag: set for one image, put back at once, never seen by another thread here."""
    from PIL import ImageFile

    if not allowed:
        yield
        return
    with _FLAG:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


@dataclass(frozen=True)
class ImageFiles:
    """Row -> RGB image of the file `root / paths[row]`; the path is the sample's id."""

    root: Path
    paths: Sequence[str]
    truncated: bool = False

    def __call__(self, row: int) -> "Image":
        """The image; FungiError as for `decode`."""
        name = self.paths[row]
        return decode(self.root / name, name, truncated=self.truncated)

    def content(self, row: int) -> bytes:
        """What is in the file, undecoded."""
        name = self.paths[row]
        return digest_of_file(self.root / name, name)


@dataclass(frozen=True)
class ImageArray:
    """Row -> RGB image of one array, grey or in colours."""

    images: UInt8[np.ndarray, "n h w *c"]

    def __call__(self, row: int) -> "Image":
        """The image of a row."""
        from PIL import Image

        return Image.fromarray(self.images[row]).convert("RGB")

    def content(self, row: int) -> bytes:
        """All of the image."""
        return digest_of_item(self.images[row])


def image_samples(
    root: Path,
    paths: Sequence[str],
    labels: Sequence[int] | Integer[np.ndarray, " n"],
    class_names: Sequence[str] = (),
    *,
    truncated: bool = False,
) -> Samples:
    """A split of image files; `paths` are relative to `root`, with forward slashes, and are the samples' ids."""
    packed = PackedNames(paths)
    return Samples(
        targets=np.asarray(labels, dtype=np.uint32),
        ids=packed,
        load=ImageFiles(root, packed, truncated),
        class_names=tuple(class_names),
    )


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in a folder, sorted; hidden ones (`.name`, `__name`) are none."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))


def class_folder_samples(root: Path, split_folder: str, classes: Sequence[str]) -> Samples:
    """The images in `root/<split_folder>/<class>/`, in the order of `classes` and then sorted by path.

    classes: those of train, so that a label means the same class in every split. FungiError for a split that has
        another class, MissingFilesError for one without images.
    """
    folder = root / split_folder
    if foreign := sorted(set(class_folders(folder)) - set(classes)):
        raise FungiError(
            f"{folder} has class folders that train has not: {', '.join(foreign[:5])}. Move them, or add them to train."
        )
    files = [image_names(folder / name) for name in classes]
    if not any(files):
        raise MissingFilesError(f"no image in the class folders of {folder}. Expected {folder}/CLASS/IMAGE.")
    paths = [f"{split_folder}/{name}/{file}" for name, names in zip(classes, files, strict=True) for file in names]
    return image_samples(root, paths, np.repeat(np.arange(len(classes)), [len(names) for names in files]), classes)


def image_names(folder: Path) -> list[str]:
    """Image files below a folder, relative to it, by folder and then by name, as torchvision's `ImageFolder` orders
    them. Hidden files (such as the `._name.jpg` that some archives carry) are left out; links are followed.

    FungiError for a link that leads back to a folder that it is in, and for an image that is no file (a pipe, on which
    a reader would wait for ever, or a link to nothing).
    """
    names: list[str] = []
    try:
        found = sorted(_folders_with_images(folder, ())) if folder.is_dir() else []
    except PermissionError as error:
        raise FungiError(f"{error.filename} can't be read: no permission. Ask its owner.") from None
    for place, files in found:
        inner = Path(place).relative_to(folder).as_posix()
        prefix = "" if inner == "." else f"{inner}/"
        names += [prefix + name for name in sorted(files)]
    return names


def _folders_with_images(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, list[str]]]:
    """Each folder and the images in it. above: the folders that this one is in, by device and number."""
    facts = folder.stat()
    own = (facts.st_dev, facts.st_ino)
    if own in above:
        raise FungiError(f"{folder} is a link that leads back to a folder that it is in. Remove it.")
    images = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _folders_with_images(Path(entry.path), (*above, own))
            elif entry.name.lower().endswith(IMAGE_ENDINGS) and not entry.name.startswith("."):
                if not entry.is_file():
                    raise FungiError(f"{entry.path} is no file but a pipe, a device or a link to nothing. Remove it.")
                images.append(entry.name)
    yield str(folder), images


def name_unread(folder: Path) -> None:
    """Say which pictures below a folder are left out, as their formats are not read."""
    endings = Counter(path.suffix.lower() for path in folder.rglob("*") if path.suffix.lower() in UNREAD_ENDINGS)
    if endings:
        shown = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
        logger.warning(
            f"{folder}: pictures left out, whose formats are not read: {shown}. Convert them to JPEG or PNG."
        )
