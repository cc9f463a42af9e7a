"""A failed file lock is not called damage, and the message names the solution."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from fungi.errors import FungiError
from fungi.store.reading import array_keys, open_hdf5


@pytest.fixture
def locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return an HDF5 file while it is locked by another open file."""
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        file["kl"] = [[1.0]]
    with path.open("r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        yield path


def test_a_file_that_cant_be_locked_is_not_called_damaged(locked_file: Path) -> None:
    for read in (array_keys, lambda path: open_hdf5(path, "r")):
        with pytest.raises(FungiError, match=r"can't be locked .* HDF5_USE_FILE_LOCKING=FALSE"):
            read(locked_file)


def test_the_solution_in_the_message_works(locked_file: Path) -> None:
    """A new process is needed, because HDF5 reads the variable when it is loaded."""
    code = f"from pathlib import Path; from fungi.store.reading import array_keys as k; print(k(Path('{locked_file}')))"
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": "FALSE"}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "['kl']"


def test_a_damaged_file_is_still_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"not HDF5")
    with pytest.raises(FungiError, match="damaged"):
        array_keys(path)
