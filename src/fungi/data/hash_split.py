"""Split class folders into train and test: a fifth of each class is for testing.

A hash of the file names selects the test images, so the split is the same on every machine. If an image is added, only
a few other images move from one split to the other split.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fungi.data.base import Samples
from fungi.data.formats.image_files import image_samples
from fungi.data.formats.image_folders import class_folders, image_names, warn_of_ignored_files
from fungi.errors import MissingFilesError
from fungi.runtime.log import logger

TEST_SHARE = 0.2
SPLITS = ("train", "test")


def split_by_hash(names: Sequence[str]) -> dict[str, list[str]]:
    """Return split -> its names, in the order of `names`. If there are several names, each split has at least one."""
    by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    test_count = max(1, round(TEST_SHARE * len(names))) if len(names) > 1 else 0
    test = set(by_hash[:test_count])
    return {"train": [name for name in names if name not in test], "test": [name for name in names if name in test]}


@dataclass(frozen=True)
class HashSplit:
    """Function that opens a split of the images in class folders. root: folder that contains the class folders."""

    root: Path

    def __call__(self, data_dir: Path, split: str) -> Samples:
        """Return one split. Raises MissingFilesError for a split without images."""
        classes = class_folders(self.root)
        files = [[f"{name}/{file}" for file in image_names(self.root / name)] for name in classes]
        warn_of_ignored_files(self.root)
        files_of_split = [split_by_hash(names)[split] for names in files]
        paths = [path for class_files in files_of_split for path in class_files]
        if not paths:
            raise MissingFilesError(
                f"no image for {split} in the class folders of {self.root}. Expected {self.root}/CLASS/IMAGE."
            )
        logger.info(
            f"{self.root}: split {split} has {len(paths):,} of {sum(map(len, files)):,} images. A hash of the file "
            "names selects a fifth of each class for testing, so that the split is always the same."
        )
        labels = np.repeat(np.arange(len(classes)), list(map(len, files_of_split)))
        return image_samples(self.root, paths, labels, classes, as_displayed=True)
