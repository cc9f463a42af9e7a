"""ADE20K: images and masks in the folders `training` and `validation`. Masks are grey PNGs with values 0 to 150."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.miniatures.masks import write_grey_mask
from tests.data.miniatures.miniature import Miniature, file_rows, files_below, write_lines, zip_folders

NAMES = {
    "train": ("training", ["ADE_train_00000001", "ADE_train_00000002"]),
    "test": ("validation", ["ADE_val_1", "ADE_val_2"]),
}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root, splits = data_dir / "ade20k", {}
    for split, (folder, names) in NAMES.items():
        splits[split] = file_rows(root, [(f"images/{folder}/{name}.jpg", 0) for name in names])
        for number, name in enumerate(names):
            write_grey_mask(root / "annotations" / folder / f"{name}.png", np.full((10, 12), 149 + number))
    heading = "Idx\tRatio\tTrain\tVal\tName"
    write_lines(root / "objectInfo150.txt", [heading, *(f"{i}\t0.1\t9\t1\tthing {i}, item {i}" for i in range(1, 151))])
    classes = ["other", *(f"thing {number}" for number in range(1, 151))]
    return Miniature(splits, class_names=classes, files=files_below(root, splits))


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    zip_folders(archives / "ADEChallengeData2016.zip", {"ADEChallengeData2016": data_dir / "ade20k"})
