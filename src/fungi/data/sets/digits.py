"""`digits`: 1,797 real handwritten digits (8 x 8 grey levels), which are part of scikit-learn.

The split is 70 % train and 30 % test, stratified, with seed 42. The rows of a split keep the order of scikit-learn.
"""

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8, UInt32

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.image_files import ImageArray


@cache
def digit_images() -> tuple[UInt8[np.ndarray, "1797 8 8"], UInt32[np.ndarray, " 1797"]]:
    """Return (images with grey levels 0 to 255, labels)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # scikit-learn's values are 0 to 16
    return grey, labels.astype(np.uint32)


@cache
def split_rows(split: str) -> Int64[np.ndarray, " n"]:
    """Return the rows of a split among the 1,797 digits, ascending."""
    from sklearn.model_selection import train_test_split

    _, labels = digit_images()
    train, test = train_test_split(np.arange(len(labels)), test_size=0.3, stratify=labels, random_state=42)
    return np.sort(train if split == "train" else test)


def _open(data_dir: Path, split: str) -> Samples:
    images, labels = digit_images()
    samples = Samples(
        targets=labels,
        ids=[f"digits/{row}" for row in range(len(labels))],
        load=ImageArray(images),
        class_names=[str(digit) for digit in range(10)],
    )
    return samples.take(split_rows(split))


register_dataset(
    name="digits",
    title="Handwritten digits of scikit-learn",
    classes=10,
    sizes={"train": 1257, "test": 540},
    open=_open,
    is_in_paper=False,
    notes="included in scikit-learn: needs no download",
)
