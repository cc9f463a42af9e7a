"""Columns `text`, `label` (a number below 77)."""

from pathlib import Path

import pytest

from fungi.data.sets.banking_77 import TABLE
from tests.data.makers.miniature import Miniature
from tests.data.makers.tables import write_splits

SPLITS = {
    "train": [("I want to activate my card", 0), ("What is the age limit?", 1), ("Refund, please", 76)],
    "test": [("My card was swallowed", 18), ("Is there a fee?", 15)],
}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    return Miniature(write_splits(data_dir / "banking-77", SPLITS), class_names=list(TABLE.class_names))
