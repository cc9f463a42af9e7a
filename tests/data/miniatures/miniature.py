"""The expected content of a miniature, and functions that write its files. Each image has a single colour.

A miniature is a dataset of a few rows in the file layout of the real dataset.
"""

import hashlib
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Row:
    """Expected content of a row. colour: colour of the image, if the row is an image."""

    id: str
    label: int
    colour: Colour | None = None


@dataclass(frozen=True)
class Miniature:
    """Expected content of a dataset. splits: rows in order. files: id -> file of the row; empty without such files."""

    splits: dict[str, list[Row]]
    class_names: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)


def generated(prefix: str, rows: dict[str, int], class_names: list[str]) -> Miniature:
    """Return the content of a dataset that is generated from row numbers. The classes of its rows take turns.

    prefix: text before the split in the ids of rows. rows: split -> number of rows.
    """
    splits = {
        split: [Row(f"{prefix}/{split}/{row}", row % len(class_names)) for row in range(count)]
        for split, count in rows.items()
    }
    return Miniature(splits, class_names=class_names)


def colour_of(name: str) -> Colour:
    """Return the colour of an image, which depends only on its name."""
    red, green, blue = hashlib.sha256(name.encode()).digest()[:3]
    return red, green, blue


def write_image(path: Path, name: str, size: tuple[int, int] = (12, 10)) -> Colour:
    """Write an image file with the colour of `name`, and return the colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    Image.new("RGB", size, colour_of(name)).save(path, kind, **({} if kind == "PNG" else {"quality": 95}))
    return colour_of(name)


def file_rows(root: Path, rows: list[tuple[str, int]]) -> list[Row]:
    """Write the image files of a split and return its rows. Ids are paths relative to `root`."""
    return [Row(name, label, write_image(root / name, name)) for name, label in rows]


def files_below(root: Path, splits: dict[str, list[Row]]) -> dict[str, Path]:
    """Return id -> file of the row, for all splits."""
    return {row.id: root / row.id for rows in splits.values() for row in rows}


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def zip_folders(archive: Path, folders: dict[str, Path]) -> None:
    """Write a zip archive of folders or files. folders: name in the archive -> path."""
    with zipfile.ZipFile(archive, "w") as file:
        for name, source in folders.items():
            for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
                if path.is_file():
                    file.write(path, f"{name}/{path.relative_to(source)}" if source.is_dir() else name)


def tar_folders(archive: Path, folders: dict[str, Path], mode: str = "w:gz") -> None:
    """Write a tar archive of folders or files. folders: name in the archive -> path."""
    with tarfile.open(archive, mode) as file:
        for name, source in folders.items():
            file.add(source, name)


def mean_colour(image: Image.Image) -> Colour:
    """Return the mean colour of an image."""
    red, green, blue = np.asarray(image).reshape(-1, 3).mean(0).round().astype(int).tolist()
    return red, green, blue
