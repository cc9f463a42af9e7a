"""A small dataset of pictures on disk, and functions that run the stages on it in this process."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from fungi.commands import COMMANDS

ROWS = {"train": 14, "test": 9}
"""Split -> number of rows."""
QUICK = ("--set", "simclr.stride_scale=1", "simclr.negative_samples=5", "--block-size", "4", "--device", "cpu")
"""Flags of a fast run. Without SimCLR, its options are refused, so tests without SimCLR add an empty `--set`."""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with the dataset `pictures`: two classes of noise, in various sizes."""
    folder = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    for split, rows in ROWS.items():
        for row in range(rows):
            height, width = noise.integers(20, 60, 2)
            image = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
            path = folder / "pictures" / split / f"class{row % 2}" / f"{row:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return folder


Stage = Callable[..., int]


@pytest.fixture
def gradients(pictures: Path) -> Stage:
    """Return a function that runs `extract_gradients.py` on the pictures: `gradients(root, *flags)` -> exit status."""

    def run(root: Path, *flags: str) -> int:
        where = ("--dataset", "pictures", "--data-dir", str(pictures), "--root", str(root))
        return COMMANDS["extract-gradients"].main([*where, *QUICK, *flags])

    return run


@pytest.fixture
def embeddings(pictures: Path) -> Stage:
    """Return a function that runs `extract.py` on the pictures: `embeddings(root, *flags)` -> exit status."""

    def run(root: Path, *flags: str) -> int:
        where = ("--dataset", "pictures", "--data-dir", str(pictures), "--root", str(root))
        return COMMANDS["extract"].main([*where, "--block-size", "4", "--device", "cpu", *flags])

    return run


def arrays(root: Path) -> dict[str, np.ndarray]:
    """Return all arrays of the feature files below a root, with the keys `file:array`."""
    by_name = {}
    for path in sorted([*(root / "embeddings").rglob("*.h5"), *(root / "gradients").rglob("*.h5")]):
        with h5py.File(path) as file:
            by_name |= {f"{path.relative_to(root)}:{name}": file[name][:] for name in file}
    return by_name


def assert_same_files(first_root: Path, second_root: Path) -> None:
    """Assert that both roots have the same feature files, with arrays that are equal bit for bit."""
    first, second = arrays(first_root), arrays(second_root)
    assert first, f"nothing was written below {first_root}"
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.dtype == second[name].dtype
        assert np.array_equal(values, second[name]), name


def assert_close_files(first_root: Path, second_root: Path) -> None:
    """Assert that direction and norm of every row are equal up to float32 rounding."""
    first, second = arrays(first_root), arrays(second_root)
    assert first.keys() == second.keys()
    for name, values in first.items():
        if name.rpartition(":")[2] in ("targets", "sample_ids", "class_names"):
            assert np.array_equal(values, second[name])
            continue
        a, b = values.astype(np.float64), second[name].astype(np.float64)
        norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        assert ((a * b).sum(1) / norms[0] / norms[1]).min() > 1 - 1e-6, name
        assert np.abs(norms[0] / norms[1] - 1).max() < 1e-4, name
