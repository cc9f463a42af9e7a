"""Patterns: generated from the row number, without files."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, Row

KINDS = ["rows", "columns", "checks", "diamonds", "rings", "dots", "blobs", "rays"]


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    splits = {
        split: [Row(f"patterns/{split}/{row}", row % 8) for row in range(rows)]
        for split, rows in (("train", 2048), ("test", 512))
    }
    return Miniature(splits, class_names=KINDS)
