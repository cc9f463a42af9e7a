"""Food: `meta/<split>.json` maps a class to unsorted names `class/number`. Labels follow the sorted classes."""

import json
from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, file_rows, files_below

LISTS = {
    "train": {"sushi": ["sushi/7", "sushi/11"], "apple_pie": ["apple_pie/1005649", "apple_pie/33"]},
    "test": {"apple_pie": ["apple_pie/1"], "sushi": ["sushi/3", "sushi/2"]},
}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "food101"
    (root / "food-101" / "meta").mkdir(parents=True)
    splits = {}
    for split, listing in LISTS.items():
        (root / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(listing))
        names = [name for group in listing.values() for name in group]
        rows = [(f"food-101/images/{name}.jpg", int(name.startswith("sushi"))) for name in names]
        splits[split] = file_rows(root, rows)
    return Miniature(splits, class_names=["apple_pie", "sushi"], files=files_below(root, splits))
