"""`eurosat`: 27,000 satellite images (RGB) of 10 kinds of land use, in torchvision's layout.

There is no official split. The split is 80 % train and 20 % test, stratified, with seed 42 (spec vision 3.2). The rows
of a split have the random order of the splitter. This order matters, because few-shot evaluation uses the first rows
of each class.
"""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from fungi.data.base import Samples, register_dataset
from fungi.data.formats.image_files import image_samples
from fungi.data.formats.torchvision_sets import TorchvisionDownload
from fungi.data.places import Place, reading, relative
from fungi.errors import FungiError

PLACE = Place(dataset="eurosat", folders=("eurosat", ""), needs=("eurosat/2750",))

_IMAGES = 27000
_ROWS_SHA256 = "f7db722b57a9ac12c63b5f18dd182d3278bfec725d6c3a45a44f81aec1c20525"
"""Hash of the train and test rows (32-bit little-endian integers). It detects a scikit-learn with another split."""


def split_rows(labels: Integer[np.ndarray, " n"]) -> dict[str, Int64[np.ndarray, " selected"]]:
    """Return the rows of each split. Raises FungiError if scikit-learn does not draw the published split."""
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits=1, train_size=0.8, random_state=42)
    train, test = next(splitter.split(labels, labels))
    rows_sha256 = hashlib.sha256(np.concatenate([train, test]).astype("<u4").tobytes()).hexdigest()
    if len(labels) == _IMAGES and rows_sha256 != _ROWS_SHA256:
        raise FungiError(
            "dataset 'eurosat': this scikit-learn draws another split than the published one, or class folders are "
            "incomplete. Install the scikit-learn of requirements.txt, or download the dataset again."
        )
    return {"train": train, "test": test}


def _open(data_dir: Path, split: str) -> Samples:
    from torchvision.datasets import EuroSAT

    root = PLACE.find(data_dir)
    with reading(PLACE, root):
        source = EuroSAT(str(root))
    paths = relative(root, [path for path, _ in source.samples])
    rows = split_rows(np.asarray(source.targets))[split]
    return image_samples(root, [paths[row] for row in rows], np.asarray(source.targets)[rows], source.classes)


register_dataset(
    name="eurosat",
    title="EuroSAT (RGB)",
    classes=10,
    sizes={"train": 21600, "test": 5400},
    open=_open,
    download=TorchvisionDownload("EuroSAT", PLACE.folders[0]),
)
