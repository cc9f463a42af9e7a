"""`imagenet-100`: the 100-class subset `ambityga/imagenet100` on Kaggle; the test split is its validation set.

The folders `train.X1` to `train.X4` and `val.X` contain class folders. A label is the position of the WordNet id in
`Labels.json`. Rows are sorted by folder, class folder and file. The saved dataset of the published code cannot be used
here, because its rows have the arbitrary order of a directory listing.
"""

import json
from functools import partial
from pathlib import Path

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.archives import find_archive, unpack_file, unpack_folder
from fungi.data.formats.image_files import image_samples
from fungi.data.formats.image_folders import class_folders, image_names
from fungi.data.places import Place, reading
from fungi.errors import FungiError, MissingFilesError

PLACE = Place(
    dataset="imagenet-100",
    folders=("imagenet100", "imagenet-100"),
    needs=("Labels.json",),
)
_FOLDERS = {"train": ("train.X1", "train.X2", "train.X3", "train.X4"), "test": ("val.X",)}


def _open(data_dir: Path, split: str) -> Samples:
    root = PLACE.find(data_dir, *_FOLDERS[split])
    with reading(PLACE, root):
        names = json.loads((root / "Labels.json").read_text(encoding="utf-8"))
    label_of = {wordnet_id: label for label, wordnet_id in enumerate(names)}
    paths: list[str] = []
    labels: list[int] = []
    for folder in _FOLDERS[split]:
        for wordnet_id in class_folders(root / folder):
            if wordnet_id not in label_of:
                raise FungiError(
                    f"dataset 'imagenet-100': {root / folder / wordnet_id} is not named in Labels.json. Remove"
                    " this folder, or unpack the dataset again."
                )
            files = image_names(root / folder / wordnet_id)
            paths += [f"{folder}/{wordnet_id}/{name}" for name in files]
            labels += [label_of[wordnet_id]] * len(files)
    if not paths:
        raise MissingFilesError(
            f"dataset 'imagenet-100': no images in {', '.join(_FOLDERS[split])} of {root}. Unpack the dataset again."
        )
    return image_samples(root, paths, labels, list(names.values()))


def _prepare(data_dir: Path, archives: Path) -> None:
    home = PLACE.home(data_dir)
    archive = partial(find_archive, archives, "imagenet100.zip", "archive.zip")
    for folder in (*_FOLDERS["train"], *_FOLDERS["test"]):
        unpack_folder(archive, folder, home / folder)
    unpack_file(archive, "Labels.json", home / "Labels.json")


register_dataset(
    name="imagenet-100",
    title="ImageNet-100",
    classes=100,
    sizes={"train": 130000, "test": 5000},
    open=_open,
    prepare=_prepare,
    archives=(
        "# 17 GB",
        "kaggle datasets download -p downloads ambityga/imagenet100",
    ),
    notes="ablations only; test is the validation set",
)
