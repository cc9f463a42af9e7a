"""AG News: one table per split, with the columns `text` and `label`."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature
from tests.data.miniatures.tables import write_splits

SPLITS = {
    "train": [("Talks go on in Geneva", 0), ("Late goal decides the derby", 1), ("Shares fall", 2), ("New chip", 3)],
    "test": [("Oil is dear", 2), ("Election, again", 0)],
}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    names = ["World", "Sports", "Business", "Sci/Tech"]
    return Miniature(write_splits(data_dir / "ag-news", SPLITS), class_names=names)
