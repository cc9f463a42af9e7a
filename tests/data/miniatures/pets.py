"""Pets: `annotations/trainval.txt` and `test.txt` have lines `image class species breed`. Classes start at 1."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, file_rows, files_below, tar_folders, write_lines

CLASSES = ["Abyssinian", "american_bulldog", "Persian"]
LISTS = {
    "trainval": [("Abyssinian_100", 0), ("american_bulldog_3", 1), ("Persian_7", 2), ("Abyssinian_1", 0)],
    "test": [("Persian_2", 2), ("american_bulldog_1", 1), ("Abyssinian_9", 0)],
}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "pets"
    splits = {}
    for name, entries in LISTS.items():
        write_lines(root / "annotations" / f"{name}.txt", [f"{image} {label + 1} 1 1" for image, label in entries])
        rows = [(f"images/{image}.jpg", label) for image, label in entries]
        splits["train" if name == "trainval" else name] = file_rows(root, rows)
    return Miniature(splits, class_names=CLASSES, files=files_below(root, splits))


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    for folder in ("images", "annotations"):
        tar_folders(archives / f"{folder}.tar.gz", {folder: data_dir / "pets" / folder})
