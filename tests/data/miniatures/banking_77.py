"""Banking 77: one table per split, with the columns `text` and `label` (from 0 to 76)."""

from pathlib import Path

import pytest

from fungi.data.sets.banking_77 import TABLE
from tests.data.miniatures.miniature import Miniature
from tests.data.miniatures.tables import write_splits

SPLITS = {
    "train": [("I want to activate my card", 0), ("What is the age limit?", 1), ("Refund, please", 76)],
    "test": [("My card was swallowed", 18), ("Is there a fee?", 15)],
}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    return Miniature(write_splits(data_dir / "banking-77", SPLITS), class_names=list(TABLE.class_names))
