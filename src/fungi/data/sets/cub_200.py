"""`cub-200`: Caltech-UCSD Birds 200 (2011), official split, in the order of `images.txt`.

The dataset is read from `CUB_200_2011/`, or from the saved dataset `cub-hf` of the published code (same rows).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.archives import find_archive, unpack_folder
from fungi.data.formats.hf_disk import open_saved
from fungi.data.formats.image_files import image_samples
from fungi.data.places import Place, reading

FOLDER = "CUB_200_2011"
PLACE = Place(
    dataset="cub-200",
    folders=("cub", "cub-200", ""),
    needs=tuple(f"{FOLDER}/{name}" for name in ("images", "images.txt", "classes.txt", "train_test_split.txt")),
)
_SAVED = "cub-hf"
_FLAGS = {"train": "1", "test": "0"}
"""Split -> value of its images in `train_test_split.txt`."""


def _open(data_dir: Path, split: str) -> Samples:
    data_dir = data_dir.expanduser()
    if (data_dir / _SAVED).is_dir() and not (data_dir / "cub" / FOLDER).is_dir():
        return open_saved(data_dir / _SAVED, split, name_rows=_saved_ids)
    root = PLACE.find(data_dir) / FOLDER
    with reading(PLACE, root):
        classes = list(_table(root / "classes.txt").values())
        flags = _table(root / "train_test_split.txt")
        paths = [path for image_id, path in _table(root / "images.txt").items() if flags[image_id] == _FLAGS[split]]
        label_of = {name: label for label, name in enumerate(classes)}
        labels = [label_of[path.partition("/")[0]] for path in paths]
    return image_samples(root, [f"images/{path}" for path in paths], labels, classes)


def _table(path: Path) -> dict[str, str]:
    """Return id -> value from a file with lines `id value`, in the order of the file."""
    lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {line_id: value.strip() for line_id, value in lines}


def _saved_ids(files: list[str], labels: np.ndarray, classes: Sequence[str]) -> list[str]:
    return [f"images/{classes[label]}/{name}" for name, label in zip(files, labels, strict=True)]


def _prepare(data_dir: Path, archives: Path) -> None:
    unpack_folder(partial(find_archive, archives, f"{FOLDER}.tgz"), FOLDER, PLACE.home(data_dir) / FOLDER)


register_dataset(
    name="cub-200",
    title="CUB-200-2011",
    classes=200,
    sizes={"train": 5994, "test": 5794},
    open=_open,
    prepare=_prepare,
    archives=(
        "# 1.2 GB",
        "wget -P downloads https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    ),
)
