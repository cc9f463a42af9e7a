"""Textures: `labels/<split><partition>.txt` has lines `class/file`. Partition 2 must not be used."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, file_rows, files_below, write_lines

LISTS = {
    "train": ["banded/banded_0005.jpg", "dotted/dotted_0002.jpg", "banded/banded_0001.jpg"],
    "val": ["banded/banded_0009.jpg", "dotted/dotted_0001.jpg"],
    "test": ["dotted/dotted_0004.jpg", "banded/banded_0004.jpg"],
}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "textures"
    base = root / "dtd" / "dtd"
    splits = {}
    for split, names in LISTS.items():
        write_lines(base / "labels" / f"{split}1.txt", names)
        write_lines(base / "labels" / f"{split}2.txt", list(reversed(names)))
        rows = [(f"dtd/dtd/images/{name}", int(name.startswith("dotted"))) for name in names]
        splits["valid" if split == "val" else split] = file_rows(root, rows)
    return Miniature(splits, class_names=["banded", "dotted"], files=files_below(root, splits))
