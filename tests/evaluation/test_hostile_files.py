"""Feature files that contradict themselves are refused, and the error names the file."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.errors import FungiError
from fungi.store.provenance import OTHER_FILE_ADVICE, SCHEMA_VERSION
from fungi.store.reading import open_array, read_targets
from tests.evaluation.feature_folder import LAYER, PROVENANCE, write_array

VALUES = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def check_refusal(path: Path, message: str) -> None:
    """Check that the array and the labels of a file are refused, and that the error names the file."""
    for read in (lambda: open_array(path, "kl").read(0, 2), lambda: read_targets(path)):
        with pytest.raises(FungiError, match=message) as error:
            read()
        assert str(path) in str(error.value)


@pytest.mark.parametrize("link", [h5py.SoftLink("/values"), h5py.ExternalLink("other.h5", "/values")])
def test_links_are_not_followed(link: object, tmp_path: Path) -> None:
    for name in ("other.h5", "file.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["values"] = VALUES
            file["group/values"] = VALUES
    with h5py.File(tmp_path / "file.h5", "a") as file:
        file["kl"] = file["targets"] = link
        file["linked"] = h5py.SoftLink("/group")
    check_refusal(tmp_path / "file.h5", "is a link, and links are not followed")
    with pytest.raises(FungiError, match="'linked/values' is a link"):
        open_array(tmp_path / "file.h5", "linked/values")
    assert open_array(tmp_path / "file.h5", "group/values").rows == 8


def test_external_storage_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(VALUES.tobytes())
    with h5py.File(tmp_path / "file.h5", "w") as file:
        for name, shape, dtype in (("kl", (8, 4), "f4"), ("targets", (32,), "u4")):
            file.create_dataset(name, shape, dtype, external=[(str(tmp_path / "secret"), 0, 128)])
    check_refusal(tmp_path / "file.h5", "are in other files, which are not read")


def test_virtual_arrays_of_other_files_are_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        for name, shape, dtype in (("kl", (8, 4), "f4"), ("targets", (8,), "u4")):
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), name, shape)
            file.create_virtual_dataset(name, layout)
    check_refusal(tmp_path / "file.h5", "are in other files, which are not read")


def test_a_shape_larger_than_the_file_is_refused_before_reading(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.create_dataset("kl", (10**12, 4), "f4", chunks=(1024, 4))
        file.create_dataset("targets", (10**12,), "u4", chunks=(1024,))
    check_refusal(tmp_path / "file.h5", r"claims to have shape \(1000000000000,.*contains only 0 bytes")


def test_compressed_files_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.create_dataset("kl", data=np.zeros((400_000, 4), np.float32), compression="gzip", compression_opts=9)
        file.create_dataset("targets", data=np.zeros(400_000, np.uint32), compression="gzip", compression_opts=9)
    assert not open_array(tmp_path / "file.h5", "kl").read(0, 400_000).any()
    assert len(read_targets(tmp_path / "file.h5")) == 400_000


@pytest.mark.parametrize("shape", [(8,), (), (2, 2, 2)])
def test_features_of_another_shape_are_refused_with_a_way_out(shape: tuple[int, ...], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["kl"] = np.zeros(shape, np.float32)
    with pytest.raises(FungiError, match=r"features have shape \[n d\]\. Choose an array with --layer-key or FILE:KEY"):
        open_array(tmp_path / "file.h5", "kl")


@pytest.mark.parametrize("shape", [(8, 2), (), (2, 2, 2)])
def test_labels_of_another_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["targets"] = np.zeros(shape, np.uint32)
    with pytest.raises(FungiError, match="the labels have shape"):
        read_targets(tmp_path / "file.h5")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"rows": 9}, "array 'kl' has 8 rows, but its provenance states 9"),
        ({"rows": 10**12}, "array 'kl' has 8 rows, but its provenance states 1000000000000"),
        (
            {"schema_version": SCHEMA_VERSION + 1},
            f"version {SCHEMA_VERSION + 1} of the provenance, this program reads version {SCHEMA_VERSION}."
            f" {OTHER_FILE_ADVICE}$",
        ),
        ({"complete": False}, "is not finished"),
    ],
)
def test_a_provenance_that_contradicts_the_file_is_refused(
    attributes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write_array(tmp_path / "file.h5", "kl", VALUES, provenance=replace(PROVENANCE, feature="kl"), layer=LAYER)
    assert open_array(path, "kl").rows == 8
    with h5py.File(path, "a") as file:
        file.attrs.update(attributes)
    with pytest.raises(FungiError, match=message):
        open_array(path, "kl")


def test_a_provenance_without_an_entry_is_refused(tmp_path: Path) -> None:
    path = write_array(tmp_path / "file.h5", "kl", VALUES, provenance=replace(PROVENANCE, feature="kl"), layer=LAYER)
    with h5py.File(path, "a") as file:
        del file.attrs["views"]
    with pytest.raises(FungiError, match=rf"no entry 'views' in its provenance: .* {OTHER_FILE_ADVICE}$"):
        open_array(path, "kl")


@pytest.mark.parametrize("dtype", ["f8", "f2", "i4"])
def test_features_are_read_in_float32_from_every_dtype(dtype: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["kl"] = (10 * VALUES).astype(dtype)
    rows = open_array(tmp_path / "file.h5", "kl").read(2, 5)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, (10 * VALUES).astype(dtype)[2:5].astype(np.float32))
