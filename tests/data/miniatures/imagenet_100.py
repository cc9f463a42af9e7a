"""ImageNet-100: four folders of train, one of validation. Labels are positions in the unsorted `Labels.json`."""

import json
from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, file_rows, files_below, zip_folders

NAMES = {"n02": "robin", "n01": "jay", "n04": "magpie", "n03": "chickadee"}
# Folder -> WordNet ids of the classes in it.
FOLDERS = {"train.X1": ["n04"], "train.X2": ["n03"], "train.X3": ["n02"], "train.X4": ["n01"], "val.X": sorted(NAMES)}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "imagenet100"
    splits: dict[str, list] = {"train": [], "test": []}
    for folder, wordnet_ids in FOLDERS.items():
        for name in wordnet_ids:
            rows = [(f"{folder}/{name}/{name}_{number}.JPEG", list(NAMES).index(name)) for number in (10, 9)]
            splits["train" if folder.startswith("train") else "test"] += file_rows(root, rows)
    (root / "Labels.json").write_text(json.dumps(NAMES))
    return Miniature(splits, class_names=list(NAMES.values()), files=files_below(root, splits))


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    root = data_dir / "imagenet100"
    zip_folders(archives / "imagenet100.zip", {name: root / name for name in [*FOLDERS, "Labels.json"]})
