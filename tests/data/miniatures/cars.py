"""Cars: MATLAB structures with the box, the class (from 1) and the file name of each image."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.data.miniatures.miniature import Miniature, file_rows, files_below, tar_folders, zip_folders

CLASSES = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"]
LISTS = {"train": [("00002.jpg", 2), ("00001.jpg", 0), ("00003.jpg", 1)], "test": [("00001.jpg", 1), ("00002.jpg", 2)]}
BOX = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"]


def _annotations(entries: list[tuple[str, int]]) -> np.ndarray:
    fields = [(name, object) for name in [*BOX, "class", "fname"]]
    return np.array([(1, 2, 3, 4, label + 1, name) for name, label in entries], dtype=fields)


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    root = data_dir / "cars"
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    splits = {
        split: file_rows(root, [(f"stanford_cars/cars_{split}/{name}", label) for name, label in entries])
        for split, entries in LISTS.items()
    }
    savemat(base / "devkit" / "cars_train_annos.mat", {"annotations": _annotations(LISTS["train"])})
    savemat(base / "cars_test_annos_withlabels.mat", {"annotations": _annotations(LISTS["test"])})
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(CLASSES, dtype=object)})
    return Miniature(splits, class_names=CLASSES, files=files_below(root, splits))


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    """Pack each folder into a folder of the same name, as Kaggle does.

    The name of the test labels has the ` (1)` that browsers add to a second download.
    """
    base = data_dir / "cars" / "stanford_cars"
    folders = {f"cars_{split}/cars_{split}": base / f"cars_{split}" for split in LISTS}
    zip_folders(archives / "stanford-cars-dataset.zip", folders)
    tar_folders(archives / "car_devkit.tgz", {"devkit": base / "devkit"})
    labels = (base / "cars_test_annos_withlabels.mat").read_bytes()
    (archives / "cars_test_annos_withlabels (1).mat").write_bytes(labels)
