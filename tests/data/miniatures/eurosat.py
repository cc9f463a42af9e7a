"""EuroSAT: `2750/<class>/<class>_<number>.jpg`. scikit-learn draws the split from the sorted files."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from tests.data.miniatures.miniature import Miniature, file_rows, files_below

CLASSES = ["AnnualCrop", "Forest"]


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "eurosat"
    files = sorted(f"{name}/{name}_{number}.jpg" for name in CLASSES for number in range(1, 11))
    labels = np.asarray([CLASSES.index(file.split("/")[0]) for file in files])
    rows = file_rows(root, [(f"eurosat/2750/{file}", int(label)) for file, label in zip(files, labels, strict=True)])
    train, test = next(StratifiedShuffleSplit(1, train_size=0.8, random_state=42).split(np.zeros(20), labels))
    splits = {"train": [rows[index] for index in train], "test": [rows[index] for index in test]}
    return Miniature(splits, class_names=CLASSES, files=files_below(root, splits))
