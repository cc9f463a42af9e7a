"""TREC: one table per split, with the columns `text` and `coarse_label`."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature
from tests.data.miniatures.tables import write_splits

CLASSES = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]
SPLITS = {
    "train": [("What is NASA ?", 0), ("How far is it from Denver to Aspen ?", 5), ("", 2), ("Why ?", 2), ("Who", 3)],
    "test": [("Where is Rome ?", 4), ("Name a colour .", 1), ("Who wrote « Émile » ?", 3)],
}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    return Miniature(write_splits(data_dir / "trec", SPLITS, label="coarse_label"), class_names=CLASSES)
