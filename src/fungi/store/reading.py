"""Open feature files for evaluation: one array at a time, read in blocks of rows, never a whole file at once.

Files of this program have a provenance; files of the original harness have none and are read with one warning.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from jaxtyping import Float32, Integer

from fungi.errors import FungiError, MissingFilesError, counted
from fungi.store.provenance import SCHEMA_VERSION, LayerProvenance, Provenance, read_layer_provenance, read_provenance
from fungi.store.seal import ArrayChecksums, Seal, bytes_of, read_seal

TARGETS, SAMPLE_IDS, CLASS_NAMES = "targets", "sample_ids", "class_names"
NO_FEATURES = (TARGETS, SAMPLE_IDS, CLASS_NAMES)
"""Arrays of a feature file that describe its rows and are no features of them."""
LARGEST_EXPANSION = 1100
"""Bytes of an array per byte in its file; deflate reaches 1,032."""


class UnknownOriginWarning(UserWarning):
    """A feature file carries no provenance."""


@dataclass(frozen=True, kw_only=True)
class FeatureArray:
    """One array `[n d]` of one feature file, and its origin as the file records it.

    provenance, layer: None for files of the original harness.
    checksums: checksums of the rows, if the file has any; they are checked whenever rows are read.
    """

    path: Path
    key: str
    rows: int
    dim: int
    provenance: Provenance | None
    layer: LayerProvenance | None
    checksums: ArrayChecksums | None = field(default=None, compare=False, repr=False)

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "b d"]:
        """Return the rows `start:stop`. Raises FungiError if they can't be read or are not as they were written."""
        with opened(self.path, check=False) as file:
            return _rows(self.path, file[self.key], self.checksums, start, min(stop, self.rows)).astype(
                np.float32, copy=False
            )

    def __str__(self) -> str:
        return f"{self.path}:{self.key}"


def open_array(path: Path, key: str) -> FeatureArray:
    """Return an array by file and name.

    Raises MissingFilesError if there is no such file, and FungiError if it is truncated, unfinished, or does not
    hold such an array.
    """
    seal = _seal(path)
    with opened(path, check=False) as file:
        array = _dataset(file, path, key)
        if array.ndim != 2:
            raise FungiError(f"{path}: array {key!r} has shape {tuple(array.shape)}, expected [rows features].")
        provenance = read_provenance(file)
        if provenance is not None:
            _check_provenance(provenance, path, key, array.shape[0])
        layer, (rows, dim) = read_layer_provenance(array), map(int, array.shape)
    checksums = seal.arrays.get(key) if seal else None
    return FeatureArray(path=path, key=key, rows=rows, dim=dim, provenance=provenance, layer=layer, checksums=checksums)


def provenance_of(path: Path) -> Provenance | None:
    """Return the provenance of a file; None for files of the original harness, which carry none."""
    with opened(path) as file:
        return read_provenance(file)


def array_keys(path: Path) -> list[str]:
    """Return the names of the feature arrays in a file, without the arrays that describe its rows."""
    with opened(path) as file:
        return sorted(name for name in file if name not in NO_FEATURES)


def read_targets(path: Path) -> Integer[np.ndarray, " n"]:
    """Return the labels of a split, int64. Raises FungiError if the file has none."""
    seal = _seal(path)
    with opened(path, check=False) as file:
        array = _dataset(file, path, TARGETS)
        if array.dtype.kind not in "iu":
            raise FungiError(f"{path}: the labels are of type {array.dtype}, expected whole numbers.")
        if array.ndim not in (1, 2) or array.size != array.shape[0]:
            raise FungiError(f"{path}: the labels have shape {tuple(array.shape)}, expected [rows].")
        rows = _rows(path, array, seal.arrays.get(TARGETS) if seal else None, 0, array.shape[0])
        return rows.reshape(-1).astype(np.int64)


def read_sample_ids(path: Path) -> list[str] | None:
    """Return one id per row of an embeddings file; None if the file holds none."""
    return _texts(path, SAMPLE_IDS)


def read_class_names(path: Path) -> list[str] | None:
    """Return the names of the labels 0, 1, ... of an embeddings file; None if the file holds none."""
    return _texts(path, CLASS_NAMES)


def _texts(path: Path, key: str) -> list[str] | None:
    with opened(path) as file:
        if key not in file:
            return None
        array = _dataset(file, path, key)
        if array.ndim != 1 or h5py.check_string_dtype(array.dtype) is None:
            raise FungiError(
                f"{path}: {key!r} has type {array.dtype} and shape {tuple(array.shape)}, expected texts [n]."
            )
        return [str(text) for text in array.asstr()[:]]


def _rows(path: Path, array: h5py.Dataset, checksums: ArrayChecksums | None, start: int, stop: int) -> np.ndarray:
    """Return rows of an array, after comparing them with their checksums if there are any."""
    if checksums is None:
        return np.asarray(array[start:stop])
    first, last = checksums.segments(start, stop)
    values = np.asarray(array[first:last])
    checksums.check(path, array.name.lstrip("/"), first, bytes_of(values))
    return values[start - first : stop - first]


def warn_of_unknown_origin(arrays: list[FeatureArray]) -> None:
    """Warn once for all files that carry no provenance, however many there are."""
    unknown = sorted({str(array.path) for array in arrays if array.provenance is None})
    if unknown:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        warnings.warn(
            f"{unknown[0]}{others}: no provenance (a file of the original harness), so it can't be checked that"
            " projection, weights, layer and rows belong together.",
            UnknownOriginWarning,
            stacklevel=2,
        )


@contextmanager
def opened(path: Path, *, check: bool = True) -> Iterator[h5py.File]:
    """Yield the file for reading, with the checksum of its attributes compared before HDF5 sees them.

    check: False if the caller has compared it. Raises FungiError for all errors of HDF5 and of damaged records.
    """
    if check:
        _seal(path)
    try:
        with open_hdf5(path, "r") as file:
            yield file
    except FungiError:
        raise
    except PermissionError:
        raise _no_permission(path) from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise FungiError(
            f"{path} can't be read as HDF5 ({reason}): truncated, damaged or of another format. If a stage wrote it,"
            " run that stage again with --overwrite; else copy it anew from its source."
        ) from None


def _seal(path: Path) -> Seal | None:
    """Return the checksums of a file, after comparing that of its attributes; None for files without any."""
    if not path.is_file():
        raise MissingFilesError(
            f"{path} is not there. Extract it first (fungi extract for embeddings, extract-gradients for gradients),"
            " or name another --root, --dataset, --backbone or split."
        )
    try:
        return read_seal(path)
    except PermissionError:
        raise _no_permission(path) from None


def _no_permission(path: Path) -> FungiError:
    return FungiError(f"{path} can't be read: no permission. Ask its owner, or name another --root.")


def _dataset(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    if key not in file:
        there = ", ".join(sorted(file)) or "nothing"
        raise FungiError(f"{path} holds no array {key!r}. It holds: {there}. Choose one with --layer-key or FILE:KEY.")
    _refuse_links(file, path, key)
    array = file[key]
    if not isinstance(array, h5py.Dataset):
        raise FungiError(f"{path}: {key!r} is no array but a group. Choose an array with --layer-key or FILE:KEY.")
    if array.external or array.is_virtual:
        raise FungiError(f"{path}: the numbers of {key!r} are in other files, which are not read. Copy them into one.")
    if array.nbytes > 1 << 20 and array.nbytes > LARGEST_EXPANSION * array.id.get_storage_size():
        raise FungiError(
            f"{path}: {key!r} claims to have shape {tuple(array.shape)}, but the file holds only "
            f"{array.id.get_storage_size()} bytes of it. Copy it anew from its"
            " source, or run the stage that wrote it again with --overwrite."
        )
    return array


def _refuse_links(file: h5py.File, path: Path, key: str) -> None:
    """Raise FungiError if the path to an array leads through a link, which may point into any file."""
    place = file
    for name in filter(None, key.split("/")):
        if not isinstance(place.get(name, getlink=True), h5py.HardLink):
            raise FungiError(f"{path}: {key!r} is a link to another place, which is not followed. Copy the array.")
        place = place[name]


def _check_provenance(provenance: Provenance, path: Path, key: str, rows: int) -> None:
    """Raise FungiError for a record of another version, of an unfinished file, or of other rows than the array has."""
    if provenance.schema_version != SCHEMA_VERSION:
        raise FungiError(
            f"{path} was written with version {provenance.schema_version} of the provenance, this program reads "
            f"version {SCHEMA_VERSION}. Use the program that wrote it, or extract it again."
        )
    if not provenance.complete:
        raise FungiError(f"{path} is not finished. Run the extraction again: it goes on where it stopped.")
    if provenance.rows != rows:
        raise FungiError(
            f"{path}: array {key!r} has {counted(rows, 'row')}, but its provenance says "
            f"{provenance.rows}: damaged, or put"
            " together by hand. Run the stage that wrote it again with --overwrite."
        )


def open_hdf5(path: Path, mode: Literal["r", "w"]) -> h5py.File:
    """Return the opened file. Raises FungiError if it can't be locked (NFS, Lustre), OSError if it can't be read."""
    try:
        return h5py.File(path, mode)
    except OSError as error:
        if "lock file" not in str(error):
            raise
        raise FungiError(
            f"{path} can't be locked ({str(error).splitlines()[0]}): its file system has no locks, or another program "
            "holds it open for writing. Set HDF5_USE_FILE_LOCKING=FALSE and try again: files of this program are "
            "written under another name and renamed when whole, so that they need no locks."
        ) from None
