"""`cars`: Stanford Cars, 196 models, in torchvision's layout.

The original download no longer exists; `archives` below gives other sources.
"""

import shutil
from functools import partial
from pathlib import Path

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.archives import find_archive, unpack_folder
from fungi.data.formats.image_files import image_samples
from fungi.data.places import Place, reading, relative
from fungi.runtime.log import logger

PLACE = Place(
    dataset="cars",
    folders=("cars", ""),
    needs=("stanford_cars/devkit/cars_meta.mat",),
)
_TEST_LABELS = "cars_test_annos_withlabels.mat"
_SPLIT_NEEDS = {
    "train": ("stanford_cars/cars_train", "stanford_cars/devkit/cars_train_annos.mat"),
    "test": ("stanford_cars/cars_test", f"stanford_cars/{_TEST_LABELS}"),
}
"""Split -> paths that the split needs in addition to those of `PLACE`."""


def _open(data_dir: Path, split: str) -> Samples:
    from torchvision.datasets import StanfordCars

    root = PLACE.find(data_dir, *_SPLIT_NEEDS[split])
    with reading(PLACE, root):
        source = StanfordCars(str(root), split=split)
        paths, labels = zip(*source._samples, strict=True)
    return image_samples(root, relative(root, list(paths)), labels, source.classes)


def _prepare(data_dir: Path, archives: Path) -> None:
    """Unpack the images (Kaggle archive) and the annotations (devkit), and copy the file of test labels."""
    home = PLACE.home(data_dir) / "stanford_cars"
    for folder in ("cars_train", "cars_test"):
        unpack_folder(
            partial(find_archive, archives, "stanford-cars-dataset.zip", "archive.zip"), folder, home / folder
        )
    unpack_folder(partial(find_archive, archives, "car_devkit.tgz"), "devkit", home / "devkit")
    if not (home / _TEST_LABELS).exists():
        labels_file = find_archive(archives, "cars_test_annos_withlabels*.mat")
        # The file gets its name only when the copy is complete.
        shutil.copyfile(labels_file, home / f".{_TEST_LABELS}")
        (home / f".{_TEST_LABELS}").rename(home / _TEST_LABELS)
        logger.info("wrote %s", home / _TEST_LABELS)


register_dataset(
    name="cars",
    title="Stanford Cars",
    classes=196,
    sizes={"train": 8144, "test": 8041},
    open=_open,
    prepare=_prepare,
    archives=(
        "# 2 GB; the original site is gone",
        "kaggle datasets download -p downloads jessicali9530/stanford-cars-dataset",
        "wget -P downloads https://github.com/pytorch/vision/files/11644847/car_devkit.tgz",
        "# and into downloads, by hand: cars_test_annos_withlabels.mat, from",
        "# https://www.kaggle.com/code/subhangaupadhaya/pytorch-stanfordcars-classification/input",
    ),
)
