"""A split for class folders that come without one: a fifth of each class is set aside for testing.

Which rows those are is decided by a hash of their names: the same on every machine and in every run, and a picture that
is added later moves few of the others.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fungi.data.base import Samples
from fungi.data.formats.image_files import image_samples
from fungi.data.formats.image_folders import class_folders, image_names, report_left_out
from fungi.errors import MissingFilesError
from fungi.runtime.log import logger

TEST_SHARE = 0.2
SPLITS = ("train", "test")


def drawn(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of each split, in their order. Of two or more names, at least one is for testing."""
    by_hash = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    count = max(1, round(TEST_SHARE * len(names))) if len(names) > 1 else 0
    test = set(by_hash[:count])
    return {"train": [name for name in names if name not in test], "test": [name for name in names if name in test]}


@dataclass(frozen=True)
class DrawnSplit:
    """Opens the splits of a folder of class folders."""

    root: Path

    def __call__(self, data_dir: Path, split: str) -> Samples:
        """Return one split; MissingFilesError where there is no picture."""
        classes = class_folders(self.root)
        files = [[f"{name}/{file}" for file in image_names(self.root / name)] for name in classes]
        report_left_out(self.root)
        chosen = [drawn(names)[split] for names in files]
        paths = [path for paths in chosen for path in paths]
        if not paths:
            raise MissingFilesError(
                f"no image for {split} in the class folders of {self.root}: CLASS/IMAGE is expected."
            )
        logger.info(
            f"{self.root}: {len(paths):,} of {sum(map(len, files)):,} pictures are for {split}; a fifth of each "
            "class is for testing, chosen by a hash of the names, so that it is the same every time."
        )
        labels = np.repeat(np.arange(len(classes)), list(map(len, chosen)))
        return image_samples(self.root, paths, labels, classes, as_displayed=True)
