"""Digits: the complete dataset, which comes with scikit-learn. The rows of the splits are computed again here."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedShuffleSplit

from tests.data.miniatures.miniature import Miniature, Row


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    labels = load_digits().target
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=0.3, random_state=42)
    train, test = next(splitter.split(np.zeros(len(labels)), labels))
    splits = {
        name: [Row(f"digits/{row}", int(labels[row])) for row in sorted(rows.tolist())]
        for name, rows in (("train", train), ("test", test))
    }
    return Miniature(splits, class_names=[str(digit) for digit in range(10)])
