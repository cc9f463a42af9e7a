"""Digit scenes: the complete dataset, which is generated from the digits of scikit-learn."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, Row


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    counts = {"train": 240, "test": 120}
    splits = {split: [Row(f"digit-scenes/{split}/{row}", 0) for row in range(rows)] for split, rows in counts.items()}
    return Miniature(splits, class_names=["background", *map(str, range(10))])
