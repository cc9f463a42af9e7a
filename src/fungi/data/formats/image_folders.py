"""Read folders of images: select and sort the files, and read class folders."""

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
"""Endings of readable files. Only the first frame of an animation is read."""
UNREADABLE_ENDINGS = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw", ".tga"}
"""Endings of image formats that cannot be read."""
FOLDERS_OF_PROGRAMS = ("__macosx", "__pycache__", "@eadir")
"""Folders that programs write next to images (macOS archives, Python, Synology thumbnails), in lower case."""
FILES_OF_PROGRAMS = ("thumbs.db", "desktop.ini")
"""Files that programs write next to images, in lower case. They are skipped without a warning."""


def is_skipped(name: str) -> bool:
    """Return whether a folder is hidden or belongs to a program. Images in such a folder are not the user's images."""
    return name.startswith(".") or name.lower() in FOLDERS_OF_PROGRAMS


def class_folders(folder: Path) -> list[str]:
    """Return the sorted names of the class folders in a folder.

    Raises FungiError for two names that look the same. Such names exist because Unicode has two encodings of an
    accented letter.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_skipped(entry.name))
    first_names: dict[str, str] = {}
    for name in names:
        first_name = first_names.setdefault(to_nfc(name), name)
        if first_name != name:
            raise FungiError(
                f"{folder} has two class folders that look the same, {first_name!a} and {name!a}. Join them."
            )
    return names


def to_nfc(name: str) -> str:
    """Return a name in the Unicode form NFC. In this form, names with accents that look the same are equal."""
    return unicodedata.normalize("NFC", name)


def class_folder_samples(
    root: Path, split_folder: str, classes: Sequence[str], *, as_displayed: bool = False
) -> Samples:
    """Return the images in `root/<split_folder>/<class>/`, in the order of `classes` and then sorted by path.

    classes: the classes of train, so that labels mean the same in all splits.
    Raises FungiError for a class that train does not have, and MissingFilesError for a split without images.
    """
    folder = root / split_folder
    unmatched = {to_nfc(name): name for name in class_folders(folder)}
    folder_of_class = [unmatched.pop(to_nfc(name), None) for name in classes]  # None: a class without a folder here
    if unmatched:
        raise FungiError(
            f"{folder} has class folders that train does not have: {', '.join(sorted(unmatched.values())[:5])}. Move "
            "them, or add them to train."
        )
    files_of_class = [image_names(folder / name) if name else [] for name in folder_of_class]
    if not any(files_of_class):
        raise MissingFilesError(f"the class folders of {folder} have no image. Expected {folder}/CLASS/IMAGE.")
    paths = [
        f"{split_folder}/{name}/{file}"
        for name, files in zip(folder_of_class, files_of_class, strict=True)
        for file in files
    ]
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in files_of_class])
    return image_samples(root, paths, labels, classes, as_displayed=as_displayed)


def image_names(folder: Path) -> list[str]:
    """Return the paths of the images below a folder, relative to this folder.

    The paths are sorted by folder, then by name, as in torchvision. Hidden files (`._name.jpg` in some archives, for
    example) and skipped folders are ignored. Links are followed.
    Raises FungiError for a link to a folder that contains the link. Raises FungiError for an image that is not a
    regular file: a link without a target, a device, or a pipe (which would block the reader forever).
    """
    names: list[str] = []
    try:
        subfolders = sorted(_folders_with_images(folder, ())) if folder.is_dir() else []
    except PermissionError as error:
        raise FungiError(f"{error.filename} can't be read: no permission. Ask its owner.") from None
    for subfolder, files in subfolders:
        inner_path = Path(subfolder).relative_to(folder).as_posix()
        prefix = "" if inner_path == "." else f"{inner_path}/"
        names += [prefix + name for name in sorted(files)]
    return names


def _folders_with_images(folder: Path, parents: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, list[str]]]:
    """Yield (path, names of the images) of a folder and of all folders in it.

    parents: device and inode numbers of the folders that contain this folder.
    Raises FungiError for a link to a folder that contains the link, and for an image that is not a regular file.
    """
    status = folder.stat()
    inode = (status.st_dev, status.st_ino)
    if inode in parents:
        raise FungiError(f"{folder} is a link to a folder that contains it. Remove it.")
    images = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if is_skipped(entry.name):
                    continue
                yield from _folders_with_images(Path(entry.path), (*parents, inode))
            elif entry.name.lower().endswith(IMAGE_ENDINGS) and not entry.name.startswith("."):
                if not entry.is_file():
                    raise FungiError(
                        f"{entry.path} is not a file but a pipe, a device or a link without a target. Remove it."
                    )
                images.append(entry.name)
    yield str(folder), images


def warn_of_ignored_files(folder: Path, *, has_class_folders: bool = True) -> None:
    """Warn of ignored files below a folder, with their number per ending.

    has_class_folders: whether the images of the folder are in class folders. Images next to these folders then also
        count as ignored.
    """
    ignored: Counter[str] = Counter()
    for folder_path, subfolders, files in os.walk(folder, followlinks=True):
        # os.walk enters only the subfolders that stay in this list.
        subfolders[:] = [name for name in subfolders if not _skip_and_count(Path(folder_path) / name, ignored)]
        for name in files:
            ending = Path(name).suffix.lower()
            if name.startswith(".") or name.lower() in FILES_OF_PROGRAMS:
                continue
            if ending not in IMAGE_ENDINGS:
                ignored[ending or "without an ending"] += 1
            elif has_class_folders and Path(folder_path) == folder:
                ignored["next to the class folders"] += 1
    if ignored:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(ignored.items()))
        advice = " Convert images of other formats to JPEG or PNG." if UNREADABLE_ENDINGS & set(ignored) else ""
        logger.warning(f"{folder}: ignored files: {counts}.{advice}")


def _skip_and_count(folder: Path, ignored: "Counter[str]") -> bool:
    """Return whether a folder is skipped. If it is, add the number of its images to `ignored`."""
    if not is_skipped(folder.name):
        return False
    if images := sum(path.suffix.lower() in IMAGE_ENDINGS for path in folder.rglob("*")):
        ignored[f"in {folder.name}"] += images
    return True
