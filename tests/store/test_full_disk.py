"""A full disk is one line and exit status 2; nothing is lost, nothing left behind, and the same command goes on.

Two ways to run out of room: a small file system of its own (needs root), and the limit of the system for the size of a
file, which any user may set.
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
def largest_file(size: int) -> Iterator[None]:
    """While the block runs, no file of this process can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system of its own can't be mounted: that needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", [1000, 5000, 40_000])
def test_an_assembly_without_room_keeps_the_blocks(size, tmp_path):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    before = files_below(tmp_path)
    with largest_file(size), pytest.raises(OSError, match=r"File too large: '.*kl-train\.h5'"):
        assemble(blocks, path)
    assert files_below(tmp_path) == before
    assemble(blocks, path)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["attn"][:], VALUES)
    assert files_below(tmp_path) == {"gradients/pictures/digits-vit/kl-train.h5"}


def test_a_block_without_room_is_missing_and_nothing_else(tmp_path):
    blocks, _ = create_blocks(tmp_path)
    before = files_below(tmp_path)
    with largest_file(5000), pytest.raises(OSError, match=r"File too large: '.*000000\.safetensors'"):
        fill(blocks)
    assert files_below(tmp_path) == before
    assert len(blocks.missing()) == 5


def test_a_projection_without_room_is_told_as_such(tmp_path):
    matrix = draw_projection(64, 10_000)
    with largest_file(20_000), pytest.raises(OSError, match="File too large"):
        save_projection(matrix, tmp_path / "m.pth")
    assert list(tmp_path.iterdir()) == []


STAGES = {
    "projection": ("--projection-dim", "64", "--gradients-dim", "90000", "--output-path", "{root}/m.pth"),
    "extract": ("--dataset", "digits", "--root", "{root}", "--device", "cpu"),
    "extract-gradients": ("--dataset", "digits", "--root", "{root}", "--device", "cpu", "--objective", "simclr"),
    "knn": ("--dataset", "digits", "--root", "{root}/features", "--k", "3"),
    "report": ("--results", "{root}/features", "--output", "{root}/report"),
}


@pytest.mark.parametrize("command", STAGES)
def test_every_stage_says_it_in_one_line(command, tmp_path, capsys):
    make_folder(tmp_path / "features")
    if command == "report":
        assert COMMANDS["knn"].main(["--dataset", "digits", "--root", str(tmp_path / "features"), "--k", "3"]) == 0
    before = files_below(tmp_path)
    capsys.readouterr()
    with largest_file(400):
        status = COMMANDS[command].main([flag.format(root=tmp_path) for flag in STAGES[command]])
    said = capsys.readouterr().err
    assert status == 2
    assert "Traceback" not in said
    assert said.splitlines()[-1].endswith(f"File too large. {DISK_FULL_ADVICE}")
    assert str(tmp_path) in said.splitlines()[-1]
    assert {name for name in files_below(tmp_path) - before if "/." in name or ".partial" in name} == set()


@pytest.mark.slow
def test_extraction_on_a_full_disk_goes_on_when_there_is_room(pictures, gradients, small_disk, tmp_path, capsys):
    flags = ("--objective", "kl", "simclr", "--with-embeddings", "--split", "train", "--block-size", "1")
    assert gradients(tmp_path / "plain", *flags) == 0
    fill_up = small_disk / "others"
    fill_up.write_bytes(bytes(250_000))
    statuses = []
    for left in range(250_000, -1, -10_000):
        capsys.readouterr()
        statuses.append(gradients(small_disk / "features", *flags))
        if statuses[-1] == 0:
            break
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert sum(line.endswith(f"No space left on device. {DISK_FULL_ADVICE}") for line in said.splitlines()) == 1
        assert not [name for name in files_below(small_disk) if ".partial-" in name]
        os.truncate(fill_up, left)
    assert statuses[-1] == 0
    assert len(statuses) > 5
    assert_same_files(small_disk / "features", tmp_path / "plain")


def test_a_file_that_hdf5_only_lays_out_is_one_that_it_would_write(tmp_path):
    kinds = {"a": ((ROWS, 3), "<f4"), "targets": ((ROWS,), "<u4"), "empty": ((0, 4), "<f4"), "cube": ((4, 3, 2), "<f4")}
    arrays = {name: np.arange(np.prod(shape), dtype=kind).reshape(shape) for name, (shape, kind) in kinds.items()}
    names = ["a", "b\N{LATIN SMALL LETTER O WITH DIAERESIS}", "", "z" * 5000]
    with new_skeleton() as skeleton, h5py.File(tmp_path / "theirs.h5", "w") as theirs:
        for file in (skeleton.file, theirs):
            file.attrs["long"] = "x" * 9000
        for name, values in arrays.items():
            made = skeleton.add(name, values.shape, values.dtype)
            written = theirs.create_dataset(name, data=values, track_times=False)
            for array in (made, written):
                array.attrs["of"] = name
        with (tmp_path / "ours.h5").open("wb") as file:
            for half in (slice(0, 3), slice(3, None)):
                for name, values in arrays.items():
                    skeleton.append_rows(file, name, values[half])
        skeleton.add_texts("names", names)
        theirs.create_dataset("names", data=names, dtype=h5py.string_dtype(), track_times=False)
    skeleton.write_headers(tmp_path / "ours.h5")
    with h5py.File(tmp_path / "ours.h5") as ours, h5py.File(tmp_path / "theirs.h5") as theirs:
        assert dict(ours.attrs) == dict(theirs.attrs)
        assert set(ours) == set(theirs)
        for name in ours:
            assert (ours[name].dtype, ours[name].shape, ours[name].chunks) == (
                theirs[name].dtype,
                theirs[name].shape,
                theirs[name].chunks,
            )
            assert dict(ours[name].attrs) == dict(theirs[name].attrs)
            np.testing.assert_array_equal(ours[name][()], theirs[name][()])


def test_what_torch_says_of_other_failures_is_not_hidden(tmp_path):
    from fungi.runtime.files import save_with_torch

    with pytest.raises((RuntimeError, TypeError, AttributeError), match=r"pickle|serialize|local"):
        save_with_torch({"a": lambda: torch.zeros(1)}, tmp_path / "x.pth")
    assert list(tmp_path.iterdir()) == []
