"""On a full disk, a command ends with status 2 and one line. Nothing is lost or left behind, and the run can resume.

The tests use two ways to have no room: a small file system (needs root), and the limit for the size of a file, which
any user can set.
"""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fungi.commands import COMMANDS
from fungi.gradients.projection import draw_projection, save_projection
from fungi.runtime.streams import DISK_FULL_ADVICE
from fungi.store.assembly import assemble
from fungi.store.skeleton import new_skeleton
from tests.evaluation.feature_folder import make_folder
from tests.stages.conftest import assert_same_files
from tests.store.blocks import ROWS, VALUES, create_blocks, files_below, fill


@contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Forbid files of this process above `size` bytes inside the `with` statement."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 400 KB, and return its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system can't be mounted: this needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", [1000, 5000, 40_000])
def test_an_assembly_without_room_keeps_the_blocks(size, tmp_path):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    before = files_below(tmp_path)
    with limited_file_size(size), pytest.raises(OSError, match=r"File too large: '.*kl-train\.h5'"):
        assemble(blocks, path)
    assert files_below(tmp_path) == before
    assemble(blocks, path)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["attn"][:], VALUES)
    assert files_below(tmp_path) == {"gradients/pictures/digits-vit/kl-train.h5"}


def test_a_block_without_room_is_missing_and_leaves_no_file(tmp_path):
    blocks, _ = create_blocks(tmp_path)
    before = files_below(tmp_path)
    with limited_file_size(5000), pytest.raises(OSError, match=r"File too large: '.*000000\.safetensors'"):
        fill(blocks)
    assert files_below(tmp_path) == before
    assert len(blocks.missing()) == 5


def test_the_error_about_a_projection_without_room_names_the_cause(tmp_path):
    matrix = draw_projection(64, 10_000)
    with limited_file_size(20_000), pytest.raises(OSError, match="File too large"):
        save_projection(matrix, tmp_path / "m.pth")
    assert list(tmp_path.iterdir()) == []


# Command -> its flags. {root} is the folder of the test.
STAGES = {
    "projection": ("--projection-dim", "64", "--gradients-dim", "90000", "--output-path", "{root}/m.pth"),
    "extract": ("--dataset", "digits", "--root", "{root}", "--device", "cpu"),
    "extract-gradients": ("--dataset", "digits", "--root", "{root}", "--device", "cpu", "--objective", "simclr"),
    "knn": ("--dataset", "digits", "--root", "{root}/features", "--k", "3"),
    "report": ("--results", "{root}/features", "--output", "{root}/report"),
}


@pytest.mark.parametrize("command", STAGES)
def test_the_message_of_every_stage_is_one_line(command, tmp_path, capsys):
    make_folder(tmp_path / "features")
    if command == "report":
        assert COMMANDS["knn"].main(["--dataset", "digits", "--root", str(tmp_path / "features"), "--k", "3"]) == 0
    before = files_below(tmp_path)
    capsys.readouterr()
    with limited_file_size(400):
        status = COMMANDS[command].main([flag.format(root=tmp_path) for flag in STAGES[command]])
    error = capsys.readouterr().err
    assert status == 2
    assert "Traceback" not in error
    assert error.splitlines()[-1].endswith(f"File too large. {DISK_FULL_ADVICE}")
    assert str(tmp_path) in error.splitlines()[-1]
    assert {name for name in files_below(tmp_path) - before if "/." in name or ".partial" in name} == set()


@pytest.mark.slow
def test_extraction_on_a_full_disk_resumes_when_there_is_room(pictures, gradients, small_disk, tmp_path, capsys):
    flags = ("--objective", "kl", "simclr", "--with-embeddings", "--split", "train", "--block-size", "1")
    assert gradients(tmp_path / "plain", *flags) == 0
    other_file = small_disk / "other"
    other_file.write_bytes(bytes(250_000))
    statuses = []
    for size in range(250_000, -1, -10_000):  # after each failure, the other file becomes 10 KB smaller
        capsys.readouterr()
        statuses.append(gradients(small_disk / "features", *flags))
        if statuses[-1] == 0:
            break
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert sum(line.endswith(f"No space left on device. {DISK_FULL_ADVICE}") for line in error.splitlines()) == 1
        assert not [name for name in files_below(small_disk) if ".partial-" in name]
        os.truncate(other_file, size)
    assert statuses[-1] == 0
    assert len(statuses) > 5
    assert_same_files(small_disk / "features", tmp_path / "plain")


def test_a_file_from_a_skeleton_equals_a_file_that_hdf5_writes(tmp_path):
    kinds = {"a": ((ROWS, 3), "<f4"), "targets": ((ROWS,), "<u4"), "empty": ((0, 4), "<f4"), "cube": ((4, 3, 2), "<f4")}
    arrays = {name: np.arange(np.prod(shape), dtype=kind).reshape(shape) for name, (shape, kind) in kinds.items()}
    names = ["a", "b\N{LATIN SMALL LETTER O WITH DIAERESIS}", "", "z" * 5000]
    with new_skeleton() as skeleton, h5py.File(tmp_path / "hdf5.h5", "w") as reference:
        for file in (skeleton.file, reference):
            file.attrs["long"] = "x" * 9000
        for name, values in arrays.items():
            reserved = skeleton.add(name, values.shape, values.dtype)
            written = reference.create_dataset(name, data=values, track_times=False)
            for array in (reserved, written):
                array.attrs["of"] = name
        with (tmp_path / "skeleton.h5").open("wb") as file:
            for half in (slice(0, 3), slice(3, None)):
                for name, values in arrays.items():
                    skeleton.append_rows(file, name, values[half])
        skeleton.add_texts("names", names)
        reference.create_dataset("names", data=names, dtype=h5py.string_dtype(), track_times=False)
    skeleton.write_headers(tmp_path / "skeleton.h5")
    with h5py.File(tmp_path / "skeleton.h5") as actual, h5py.File(tmp_path / "hdf5.h5") as expected:
        assert dict(actual.attrs) == dict(expected.attrs)
        assert set(actual) == set(expected)
        for name, array in actual.items():
            for attribute in ("dtype", "shape", "chunks"):
                assert getattr(array, attribute) == getattr(expected[name], attribute)
            assert dict(array.attrs) == dict(expected[name].attrs)
            np.testing.assert_array_equal(array[()], expected[name][()])


def test_other_errors_of_torch_keep_their_message(tmp_path):
    from fungi.runtime.files import save_with_torch

    with pytest.raises((RuntimeError, TypeError, AttributeError), match=r"pickle|serialize|local"):
        save_with_torch({"a": lambda: torch.zeros(1)}, tmp_path / "x.pth")
    assert list(tmp_path.iterdir()) == []
