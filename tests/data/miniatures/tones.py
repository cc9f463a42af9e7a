"""Tones: generated from the row number, without files."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, Row

KINDS = ["falling", "hissing", "plucked", "pulsing", "rich", "rising", "steady", "trembling"]


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    splits = {
        split: [Row(f"tones-42/{split}/{row}", row % 8) for row in range(rows)]
        for split, rows in (("train", 400), ("test", 200))
    }
    return Miniature(splits, class_names=KINDS)
