"""Oxford landmarks: `gnd_roxford5k.pkl` has image names, and a box and database rows per query."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.data.miniatures.miniature import Miniature, Row, colour_of, file_rows, files_below, write_image, zip_folders

DATABASE = ["all_souls_000013", "bodleian_000132", "christ_church_000179"]
QUERIES = ["radcliffe_camera_000519", "ashmolean_000000"]
TRUTH = [
    {"bbx": [2.0, 1.0, 10.0, 7.0], "easy": [0], "hard": [2], "junk": []},
    {"bbx": [0.0, 0.0, 6.0, 6.0], "easy": [], "hard": [1], "junk": [0, 2]},
]


def make_landmarks(data_dir: Path, folder: str) -> Miniature:
    """Write a set of landmarks. Some database rows in the written file are numpy arrays, as in the published file."""
    root = data_dir / "retrieval-landmarks" / folder
    lists = {"train": DATABASE, "test": QUERIES}
    splits = {
        split: file_rows(root, [(f"jpg/{name}.jpg", row) for row, name in enumerate(names)])
        for split, names in lists.items()
    }
    files = files_below(root, splits)
    splits["test-cropped"] = [
        Row(f"jpg/{name}.jpg#bbx", row, colour_of(f"jpg/{name}.jpg")) for row, name in enumerate(QUERIES)
    ]
    truth = [{**record, "hard": np.asarray(record["hard"])} for record in TRUTH]
    listing = {"imlist": DATABASE, "qimlist": QUERIES, "gnd": truth}
    (root / f"gnd_{folder}.pkl").write_bytes(pickle.dumps(listing, protocol=2))
    write_image(root / "jpg" / "not_listed_000001.jpg", "not listed")
    return Miniature(splits, files=files)


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    return make_landmarks(data_dir, "roxford5k")


def pack(data_dir: Path, archives: Path, patch: pytest.MonkeyPatch) -> None:
    zip_folders(archives / "roxfordparis.zip", {"roxford5k": data_dir / "retrieval-landmarks" / "roxford5k"})
