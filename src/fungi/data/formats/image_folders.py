"""Folders of images: which files are read, in which order, which are left out; and classes that are folders."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fungi.data.base import Samples
from fungi.data.formats.image_files import image_samples
from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.log import logger

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings of files that are read; of a moving picture, its first one."""
PICTURE_ENDINGS = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw", ".tga"}
"""Endings of pictures in formats that are not read."""
FOLDERS_OF_PROGRAMS = ("__macosx", "__pycache__", "@eadir")
"""Folders that programs leave among pictures: archives of macOS, Python, thumbnails of Synology. Lower case."""
FILES_OF_PROGRAMS = ("thumbs.db", "desktop.ini")
"""Files that programs leave among pictures, not worth a word. Lower case."""


def is_skipped(name: str) -> bool:
    """Return whether a folder is hidden, or one that programs leave: its pictures are copies, thumbnails or drafts."""
    return name.startswith(".") or name.lower() in FOLDERS_OF_PROGRAMS


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in a folder, sorted.

    FungiError for two names that look the same: Unicode writes an accented letter in two ways.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_skipped(entry.name))
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(composed(name), name)
        if other != name:
            raise FungiError(f"{folder} has two class folders that look the same, {other!a} and {name!a}. Join them.")
    return names


def composed(name: str) -> str:
    """Return a name with each accented letter as one character: equal for names that look the same."""
    return unicodedata.normalize("NFC", name)


def class_folder_samples(
    root: Path, split_folder: str, classes: Sequence[str], *, as_displayed: bool = False
) -> Samples:
    """Return the images in `root/<split_folder>/<class>/`, in the order of `classes` and then sorted by path.

    classes: those of train, so that a label means the same class in every split. FungiError for a split that has
        another class, MissingFilesError for one without images.
    """
    folder = root / split_folder
    own_names = {composed(name): name for name in class_folders(folder)}
    places = [own_names.pop(composed(name), None) for name in classes]
    if own_names:
        raise FungiError(
            f"{folder} has class folders that train has not: {', '.join(sorted(own_names.values())[:5])}. Move them, "
            "or add them to train."
        )
    files = [image_names(folder / name) if name else [] for name in places]
    if not any(files):
        raise MissingFilesError(f"no image in the class folders of {folder}. Expected {folder}/CLASS/IMAGE.")
    paths = [f"{split_folder}/{name}/{file}" for name, names in zip(places, files, strict=True) for file in names]
    labels = np.repeat(np.arange(len(classes)), [len(names) for names in files])
    return image_samples(root, paths, labels, classes, as_displayed=as_displayed)


def image_names(folder: Path) -> list[str]:
    """Return the image files below a folder, relative to it, by folder and then by name, as torchvision orders them.

    Hidden files (such as the `._name.jpg` that some archives carry) and skipped folders are left out; links are
    followed.

    FungiError for a link that leads back to a folder that it is in, and for an image that is no file (a pipe, on which
    a reader would wait for ever, or a link to nothing).
    """
    names: list[str] = []
    try:
        places = sorted(_folders_with_images(folder, ())) if folder.is_dir() else []
    except PermissionError as error:
        raise FungiError(f"{error.filename} can't be read: no permission. Ask its owner.") from None
    for place, files in places:
        inner = Path(place).relative_to(folder).as_posix()
        prefix = "" if inner == "." else f"{inner}/"
        names += [prefix + name for name in sorted(files)]
    return names


def _folders_with_images(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder and the images in it. above: the folders that this one is in, by device and number."""
    facts = folder.stat()
    own = (facts.st_dev, facts.st_ino)
    if own in above:
        raise FungiError(f"{folder} is a link that leads back to a folder that it is in. Remove it.")
    images = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if is_skipped(entry.name):
                    continue
                yield from _folders_with_images(Path(entry.path), (*above, own))
            elif entry.name.lower().endswith(IMAGE_ENDINGS) and not entry.name.startswith("."):
                if not entry.is_file():
                    raise FungiError(f"{entry.path} is no file but a pipe, a device or a link to nothing. Remove it.")
                images.append(entry.name)
    yield str(folder), images


def report_left_out(folder: Path, *, classes: bool = True) -> None:
    """Log which files below a folder are left out, by kind and number; nothing where all are read.

    classes: whether pictures have to be in class folders, so that those beside the class folders are left out.
    """
    kinds: Counter[str] = Counter()
    for place, inner, files in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not _counted_as_skipped(Path(place) / name, kinds)]
        for name in files:
            ending = Path(name).suffix.lower()
            if name.startswith(".") or name.lower() in FILES_OF_PROGRAMS:
                continue
            if ending not in IMAGE_ENDINGS:
                kinds[ending or "without an ending"] += 1
            elif classes and Path(place) == folder:
                kinds["beside the class folders"] += 1
    if kinds:
        shown = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
        convert = " Pictures of other formats have to be converted to JPEG or PNG."
        logger.warning(f"{folder}: files left out: {shown}.{convert if PICTURE_ENDINGS & set(kinds) else ''}")


def _counted_as_skipped(folder: Path, kinds: "Counter[str]") -> bool:
    """Return whether a folder is skipped, and count the pictures in it."""
    if not is_skipped(folder.name):
        return False
    if pictures := sum(path.suffix.lower() in IMAGE_ENDINGS for path in folder.rglob("*")):
        kinds[f"in {folder.name}"] += pictures
    return True
