"""Open the images of a run: a folder, or the train rows of a dataset."""

from pathlib import Path

import numpy as np

from fungi.data.base import Samples, open_split
from fungi.data.formats.image_files import image_samples
from fungi.data.formats.image_folders import image_names
from fungi.errors import FungiError, MissingFilesError


def open_images(folder: Path | None, dataset: str, data_dir: Path) -> Samples:
    """Return all images below a folder, without labels, or the train rows of a dataset.

    Raises FungiError if there are no images.
    """
    if folder is None:
        return open_split(dataset, "train", data_dir)
    if not folder.is_dir():
        raise MissingFilesError(f"--data-path: there is no folder {folder}. Give the folder of training images.")
    names = image_names(folder)
    if not names:
        raise FungiError(f"--data-path: there is no image in {folder}. Expected {folder}/CLASS/IMAGE.")
    return image_samples(folder, names, np.zeros(len(names), dtype=np.uint32))
