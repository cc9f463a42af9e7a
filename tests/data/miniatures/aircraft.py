"""Aircraft: `images_variant_<split>.txt` has lines `number variant`. Classes have the order of `variants.txt`."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, file_rows, files_below, write_lines

CLASSES = ["707-320", "Cessna 172", "A300B4"]
LISTS = {
    "train": [("1025794", 2), ("0034309", 0)],
    "val": [("0056978", 1)],
    "test": [("0062781", 0), ("1514522", 1), ("0481847", 2)],
}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "aircraft"
    base = root / "fgvc-aircraft-2013b" / "data"
    write_lines(base / "variants.txt", CLASSES)
    splits = {}
    all_lists = {**LISTS, "trainval": LISTS["train"] + LISTS["val"]}
    for name, entries in all_lists.items():
        write_lines(base / f"images_variant_{name}.txt", [f"{number} {CLASSES[label]}" for number, label in entries])
        if name != "trainval":
            rows = [(f"fgvc-aircraft-2013b/data/images/{number}.jpg", label) for number, label in entries]
            splits["valid" if name == "val" else name] = file_rows(root, rows)
    return Miniature(splits, class_names=CLASSES, files=files_below(root, splits))
