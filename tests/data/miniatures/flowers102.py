"""Flowers: `imagelabels.mat` has the label (from 1) of each image, `setid.mat` the image numbers of each split."""

from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from scipy.io import savemat

from tests.data.miniatures.miniature import Miniature, file_rows, files_below, md5

LABELS = [77, 1, 102, 5, 1, 77, 3]
NUMBERS = {"train": [3, 1], "valid": [2, 5], "test": [7, 4, 6]}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "flowers102"
    base = root / "flowers-102"
    splits = {}
    for split, numbers in NUMBERS.items():
        rows = [(f"flowers-102/jpg/image_{number:05d}.jpg", LABELS[number - 1] - 1) for number in numbers]
        splits[split] = file_rows(root, rows)
    savemat(base / "imagelabels.mat", {"labels": np.asarray([LABELS], dtype=np.uint8)})
    keys = {"trnid": "train", "valid": "valid", "tstid": "test"}
    savemat(base / "setid.mat", {key: np.asarray([NUMBERS[split]], dtype=np.uint16) for key, split in keys.items()})
    flowers = torchvision.datasets.Flowers102
    names = {"label": "imagelabels.mat", "setid": "setid.mat"}
    checksums = {key: (name, md5(base / name)) for key, name in names.items()}
    patch.setattr(flowers, "_file_dict", {**flowers._file_dict, **checksums})
    return Miniature(splits, class_names=flowers.classes, files=files_below(root, splits))
