"""Open the arrays of feature files for evaluation, and read them in blocks of rows.

Files of this program have a provenance. Files of the published code (the experiment code of the authors) have none: the
program reads them with a warning.
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
from fungi.store.provenance import (
    OTHER_FILE_ADVICE,
    SCHEMA_VERSION,
    LayerProvenance,
    Provenance,
    read_layer_provenance,
    read_provenance,
)
from fungi.store.seal import ArrayChecksums, Seal, bytes_of, read_seal

TARGETS, SAMPLE_IDS, CLASS_NAMES = "targets", "sample_ids", "class_names"
"""Names of arrays in the files of embeddings: labels, sample ids, and names of the labels."""
NOT_FEATURES = (TARGETS, SAMPLE_IDS, CLASS_NAMES)
"""Arrays of a feature file that are not features."""
ARRAY_ADVICE = "Choose an array with --layer-key or FILE:KEY."
LARGEST_EXPANSION = 1100
"""Largest plausible number of bytes of an array per byte in the file. Deflate reaches 1,032."""


class UnknownOriginWarning(UserWarning):
    """Given for a feature file without a provenance."""


@dataclass(frozen=True, kw_only=True)
class FeatureArray:
    """An array `[n d]` of a feature file, with its provenance.

    provenance, layer: None for files of the published code; the layer is also None for embeddings.
    checksums: checksums of the rows, if the file has them; they are checked at every read.
    """

    path: Path
    key: str
    rows: int
    dim: int
    provenance: Provenance | None
    layer: LayerProvenance | None
    checksums: ArrayChecksums | None = field(default=None, compare=False, repr=False)

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "b d"]:
        """Return the rows `start:stop`. Raises FungiError if they can't be read, or if their checksum is wrong."""
        with opened(self.path, check=False) as file:
            rows = _rows(self.path, file[self.key], self.checksums, start, min(stop, self.rows))
            return rows.astype(np.float32, copy=False)

    def __str__(self) -> str:
        return f"{self.path}:{self.key}"


def open_array(path: Path, key: str) -> FeatureArray:
    """Return an array by file and name.

    Raises MissingFilesError if the file does not exist, and FungiError if it is truncated or unfinished, or does not
    contain the array.
    """
    seal = _seal(path)
    with opened(path, check=False) as file:
        array = _dataset(file, path, key)
        if array.ndim != 2:
            raise FungiError(
                f"{path}: array {key!r} has shape {tuple(array.shape)}, but features have shape [n d]. {ARRAY_ADVICE}"
            )
        provenance = read_provenance(file)
        if provenance is not None:
            _check_provenance(provenance, path, key, array.shape[0])
        layer = read_layer_provenance(array)
        rows, dim = map(int, array.shape)
    checksums = seal.arrays.get(key) if seal else None
    return FeatureArray(path=path, key=key, rows=rows, dim=dim, provenance=provenance, layer=layer, checksums=checksums)


def provenance_of(path: Path) -> Provenance | None:
    """Return the provenance of a file; None for files of the published code, which have no provenance."""
    with opened(path) as file:
        return read_provenance(file)


def array_keys(path: Path) -> list[str]:
    """Return the names of the feature arrays in a file."""
    with opened(path) as file:
        return sorted(name for name in file if name not in NOT_FEATURES)


def read_targets(path: Path) -> Integer[np.ndarray, " n"]:
    """Return the labels of a split, int64. Raises FungiError if the file has no labels."""
    seal = _seal(path)
    with opened(path, check=False) as file:
        array = _dataset(file, path, TARGETS)
        if array.dtype.kind not in "iu":
            raise FungiError(f"{path}: the labels have type {array.dtype}, but labels are whole numbers.")
        if array.ndim not in (1, 2) or array.size != array.shape[0]:
            raise FungiError(f"{path}: the labels have shape {tuple(array.shape)}, but labels have shape [n].")
        rows = _rows(path, array, seal.arrays.get(TARGETS) if seal else None, 0, array.shape[0])
        return rows.reshape(-1).astype(np.int64)


def read_sample_ids(path: Path) -> list[str] | None:
    """Return one id per row of an embeddings file; None if the file has no ids."""
    return _texts(path, SAMPLE_IDS)


def read_class_names(path: Path) -> list[str] | None:
    """Return the names of the labels 0, 1, ... of an embeddings file; None if the file has no names."""
    return _texts(path, CLASS_NAMES)


def _texts(path: Path, key: str) -> list[str] | None:
    """Return an array of texts; None if the file does not have it.

    Raises FungiError if the array has another type or shape.
    """
    with opened(path) as file:
        if key not in file:
            return None
        array = _dataset(file, path, key)
        if array.ndim != 1 or h5py.check_string_dtype(array.dtype) is None:
            raise FungiError(
                f"{path}: {key!r} has type {array.dtype} and shape {tuple(array.shape)}, but it must be texts [n]."
            )
        return [str(text) for text in array.asstr()[:]]


def _rows(path: Path, array: h5py.Dataset, checksums: ArrayChecksums | None, start: int, stop: int) -> np.ndarray:
    """Return rows of an array. If the file has checksums, first compare the rows with them."""
    if checksums is None:
        return np.asarray(array[start:stop])
    first, last = checksums.segments(start, stop)
    values = np.asarray(array[first:last])
    checksums.check(path, array.name.lstrip("/"), first, bytes_of(values))
    return values[start - first : stop - first]


def warn_of_unknown_origin(arrays: list[FeatureArray]) -> None:
    """Give one warning for all files without a provenance."""
    paths = sorted({str(array.path) for array in arrays if array.provenance is None})
    if paths:
        others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        warnings.warn(
            f"{paths[0]}{others}: no provenance (a file of the published code), so it can't be checked that"
            " projection, weights, layer and rows belong together.",
            UnknownOriginWarning,
            stacklevel=2,
        )


@contextmanager
def opened(path: Path, *, check: bool = True) -> Iterator[h5py.File]:
    """Yield the file for reading. The checksum of its attributes is checked before HDF5 opens the file.

    check: False if the caller has already checked the file. Raises FungiError for all errors of HDF5 and for damaged
    records.
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
            f"{path} can't be read as HDF5 ({reason}): it is truncated, damaged or of another format. If a stage wrote"
            " it, run this stage again with --overwrite; otherwise copy it again from its source."
        ) from None


def _seal(path: Path) -> Seal | None:
    """Check the attributes of a file, and return its checksums; None for files without checksums.

    Raises MissingFilesError if the file does not exist, and DamagedFileError if its attributes have changed.
    """
    if not path.is_file():
        raise MissingFilesError(
            f"{path} does not exist. Extract it first (fungi extract for embeddings, extract-gradients for gradients),"
            " or name another --root, --dataset, --backbone or split."
        )
    try:
        return read_seal(path)
    except PermissionError:
        raise _no_permission(path) from None


def _no_permission(path: Path) -> FungiError:
    return FungiError(f"{path} can't be read: no permission. Ask its owner, or name another --root.")


def _dataset(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    """Return an array of a file. Raises FungiError if it is absent, incomplete or in another file."""
    if key not in file:
        names = ", ".join(sorted(file)) or "nothing"
        raise FungiError(f"{path} has no array {key!r}. It contains: {names}. {ARRAY_ADVICE}")
    _refuse_links(file, path, key)
    array = file[key]
    if not isinstance(array, h5py.Dataset):
        raise FungiError(f"{path}: {key!r} is a group, not an array. {ARRAY_ADVICE}")
    if array.external or array.is_virtual:
        raise FungiError(
            f"{path}: the numbers of {key!r} are in other files, which are not read. Copy them into one file."
        )
    is_large = array.nbytes > 1 << 20  # 1 MiB; a smaller array needs little memory, even if its size is wrong
    if is_large and array.nbytes > LARGEST_EXPANSION * array.id.get_storage_size():
        raise FungiError(
            f"{path}: {key!r} claims to have shape {tuple(array.shape)}, but the file contains only"
            f" {array.id.get_storage_size()} bytes of it. Copy the file again from its source, or run the stage that"
            " wrote it again with --overwrite."
        )
    return array


def _refuse_links(file: h5py.File, path: Path, key: str) -> None:
    """Raise FungiError if the path to an array contains a link, which may lead to any file."""
    group = file
    for name in filter(None, key.split("/")):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise FungiError(
                f"{path}: {key!r} is a link, and links are not followed. Replace the link by a copy of the array."
            )
        group = group[name]


def _check_provenance(provenance: Provenance, path: Path, key: str, rows: int) -> None:
    """Raise FungiError for a provenance of another version, of an unfinished file, or with another number of rows."""
    if provenance.schema_version != SCHEMA_VERSION:
        raise FungiError(
            f"{path} was written with version {provenance.schema_version} of the provenance, this program reads "
            f"version {SCHEMA_VERSION}. {OTHER_FILE_ADVICE}"
        )
    if not provenance.complete:
        raise FungiError(f"{path} is not finished. Run the extraction again: it continues where it stopped.")
    if provenance.rows != rows:
        raise FungiError(
            f"{path}: array {key!r} has {counted(rows, 'row')}, but its provenance states {provenance.rows}. The file"
            " is damaged or was edited. Run the stage that wrote it again with --overwrite."
        )


def open_hdf5(path: Path, mode: Literal["r", "w"]) -> h5py.File:
    """Open an HDF5 file. Raises FungiError if it can't be locked (NFS, Lustre), and OSError if it can't be read."""
    try:
        return h5py.File(path, mode)
    except OSError as error:
        if "lock file" not in str(error):
            raise
        raise FungiError(
            f"{path} can't be locked ({str(error).splitlines()[0]}): its file system has no locks, or another program "
            "writes it. Set HDF5_USE_FILE_LOCKING=FALSE and try again. This is safe, because this program writes files "
            "under another name and renames them when they are complete."
        ) from None
