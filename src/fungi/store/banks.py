"""Banks of patches on disk: features `[n d]`, and the number of pixels of each class in each patch `[n c]`.

The size of a bank is known before its first row is computed. Blocks have the states that `store.blocks` describes, with
one difference: a block is written to its position in two plain files, and a small file marks each finished block.
Readers read windows of rows, so that the memory does not depend on the size of the bank.

The mark of a block contains the checksums of the block. A `Bank` compares these checksums only when rows of the block
are read for the first time, because a run reads the same rows many times.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from zlib import crc32

import numpy as np
from jaxtyping import Float, Integer, UInt16

from fungi.errors import FungiError, counted
from fungi.runtime.files import ensure_folder, written_once
from fungi.runtime.owner import remove_orphans
from fungi.store.seal import DamagedFileError, bytes_of, checksum_of_range, checksum_of_record, compare_checksums

MANIFEST, FEATURES, LABELS, MARKS = "bank.json", "features.bin", "labels.bin", "done"
"""Names in the folder of a bank: description, features, labels, and the folder of the marks of finished blocks."""
_WINDOW_ROWS = 1 << 16
"""Number of rows of a file that are mapped into memory at a time."""


@dataclass(frozen=True)
class BankManifest:
    """Description of a bank, written before its first row.

    dim, dtype: number of entries and dtype of a feature. classes: number of classes.
    ends: number of rows up to the end of each block.
    provenance: everything that determines the numbers of the bank, and information for people.
    """

    dim: int
    classes: int
    dtype: str
    ends: tuple[int, ...]
    provenance: dict[str, Any]

    @property
    def rows(self) -> int:
        """Number of rows, n."""
        return self.ends[-1]

    @property
    def key(self) -> str:
        """Hash of everything that determines the bank."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@runtime_checkable
class Patches(Protocol):
    """Features of patches for searches, which read windows of rows or single rows."""

    rows: int
    dim: int

    def features_of(self, rows: Integer[np.ndarray, "*n"]) -> Float[np.ndarray, "*n d"]:
        """Return features of single rows, float32."""

    def windows(self, size: int) -> Iterator[tuple[int, Float[np.ndarray, "n d"]]]:
        """Yield windows of `size` rows, each with the index of its first row."""


class PatchRows:
    """Features of patches in memory."""

    def __init__(self, features: Float[np.ndarray, "n d"]) -> None:
        self._features = features
        self.rows, self.dim = features.shape

    def features_of(self, rows: Integer[np.ndarray, "*n"]) -> Float[np.ndarray, "*n d"]:
        """Return features of single rows."""
        return self._features[rows]

    def windows(self, size: int) -> Iterator[tuple[int, Float[np.ndarray, "n d"]]]:
        """Yield windows of `size` rows, each with the index of its first row."""
        for start in range(0, self.rows, size):
            yield start, self._features[start : start + size]


class Bank:
    """A bank in its folder. Some of its blocks may be missing."""

    def __init__(self, folder: Path, manifest: BankManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.rows, self.dim, self.classes = manifest.rows, manifest.dim, manifest.classes
        self._formats = {FEATURES: (self.dim, np.dtype(manifest.dtype)), LABELS: (self.classes, np.dtype(np.uint16))}
        """File -> number of columns, dtype."""
        self._checked = {name: np.zeros(len(manifest.ends), dtype=bool) for name in self._formats}
        """File -> for each block, whether its checksum was compared."""

    @classmethod
    def create(cls, folder: Path, manifest: BankManifest) -> "Bank":
        """Return the bank in a folder; create a missing bank. Raises FungiError if the folder has another bank."""
        bank = cls(folder, manifest)
        if not (folder / MANIFEST).exists():
            ensure_folder(folder / MARKS)
            for name, (width, dtype) in bank._formats.items():
                with (folder / name).open("ab") as file:  # other processes may do this at the same time
                    file.truncate(manifest.rows * width * dtype.itemsize)
            with written_once(folder / MANIFEST) as temporary:
                temporary.write_text(_with_checksum(asdict(manifest)), encoding="utf-8")
        if read_manifest(folder) != manifest:
            raise FungiError(f"{folder} contains a bank with other settings. Move this folder away and run again.")
        for path in (folder, folder / MARKS):
            remove_orphans(path)
        return bank

    def missing(self) -> list[int]:
        """Return the numbers of the missing blocks."""
        return [block for block in range(len(self.manifest.ends)) if not self._mark(block).exists()]

    def span(self, block: int) -> tuple[int, int]:
        """Return the first row of a block, and the row after its last row."""
        return (self.manifest.ends[block - 1] if block else 0), self.manifest.ends[block]

    def write(self, block: int, features: Float[np.ndarray, "n d"], labels: Integer[np.ndarray, "n c"]) -> None:
        """Write the rows of a block to their position, and then the mark of the block with its checksums."""
        start, stop = self.span(block)
        assert features.shape == (stop - start, self.dim), (features.shape, start, stop, self.dim)
        assert labels.shape == (stop - start, self.classes)
        checksums = {}
        for name, values in ((FEATURES, features), (LABELS, labels)):
            width, dtype = self._formats[name]
            content = bytes_of(np.ascontiguousarray(values, dtype=dtype))
            checksums[name] = f"{crc32(content):08x}"
            with (self.folder / name).open("r+b") as file:
                file.seek(start * width * dtype.itemsize)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        with written_once(self._mark(block)) as temporary:
            temporary.write_text(_with_checksum(checksums), encoding="utf-8")

    def features(self, start: int, stop: int) -> Float[np.ndarray, "n d"]:
        """Return the features of the rows `start:stop` in their stored dtype."""
        return self._window(FEATURES, start, stop)

    def features_of(self, rows: Integer[np.ndarray, "*n"]) -> Float[np.ndarray, "*n d"]:
        """Return the features of single rows, float32."""
        return self._single_rows(FEATURES, rows).astype(np.float32)

    def labels_of(self, rows: Integer[np.ndarray, "*n"]) -> UInt16[np.ndarray, "*n c"]:
        """Return the number of pixels of each class in single rows."""
        return self._single_rows(LABELS, rows)

    def windows(self, size: int) -> Iterator[tuple[int, Float[np.ndarray, "n d"]]]:
        """Yield windows of `size` rows, each with the index of its first row."""
        for start in range(0, self.rows, size):
            yield start, self.features(start, min(start + size, self.rows))

    def _window(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return the rows `start:stop` of a file of the bank, after a comparison with their checksums.

        Raises FungiError if the file is too short or damaged.
        """
        width, dtype = self._formats[name]
        with (self.folder / name).open("rb") as file:
            file.seek(start * width * dtype.itemsize)
            values = np.fromfile(file, dtype=dtype, count=(stop - start) * width)
        if values.size != (stop - start) * width:
            raise FungiError(f"{self.folder / name} has too few rows for its bank. Move it away and run again.")
        if stop > start:
            self._check(name, np.array([start, stop - 1]), include_between=True)
        return values.reshape(-1, width)

    def _single_rows(self, name: str, rows: Integer[np.ndarray, "*n"]) -> np.ndarray:
        """Return single rows. One window of rows of the file is mapped at a time."""
        width, dtype = self._formats[name]
        flat_rows, values = rows.reshape(-1), np.empty((rows.size, width), dtype=dtype)
        self._check(name, flat_rows)
        windows = flat_rows // _WINDOW_ROWS
        for window in np.unique(windows):
            start = int(window) * _WINDOW_ROWS
            shape = (min(_WINDOW_ROWS, self.rows - start), width)
            mapped = np.memmap(self.folder / name, dtype, "r", start * width * dtype.itemsize, shape)
            in_window = windows == window
            values[in_window] = mapped[flat_rows[in_window] - start]
        return values.reshape(*rows.shape, width)

    def _check(self, name: str, rows: Integer[np.ndarray, " m"], *, include_between: bool = False) -> None:
        """Compare the blocks of some rows with their checksums. Each block is checked only once.

        include_between: also check the blocks between the first and the last row.
        Raises DamagedFileError for a block whose content has changed.
        """
        checked = self._checked[name]
        if checked.all():
            return
        blocks = np.unique(np.searchsorted(self.manifest.ends, rows, side="right"))
        if include_between and blocks.size:
            blocks = np.arange(blocks[0], blocks[-1] + 1)
        width, dtype = self._formats[name]
        row_bytes = width * dtype.itemsize
        for block in blocks[~checked[blocks]].tolist():
            start, stop = self.span(block)
            with (self.folder / name).open("rb") as file:
                checksum = f"{checksum_of_range(file, start * row_bytes, stop * row_bytes):08x}"
            if checksum != self._checksums(block)[name]:
                reason = f"rows {start} to {stop - 1} do not have the checksum that they were written with"
                raise _damaged(self.folder / name, reason)
            checked[block] = True

    def _checksums(self, block: int) -> dict[str, str]:
        """Return the checksums of a block by file. Raises DamagedFileError for a damaged or missing mark."""
        mark = self._mark(block)
        try:
            return _read_record(mark)
        except (OSError, ValueError) as error:
            raise _damaged(mark, str(error)) from None

    def _mark(self, block: int) -> Path:
        return self.folder / MARKS / f"{block:06d}"


def open_bank(folder: Path) -> Bank:
    """Return the bank in a folder. Raises FungiError if there is no bank, or if blocks are missing."""
    bank = Bank(folder, read_manifest(folder))
    if missing := len(bank.missing()):
        raise FungiError(
            f"the bank {folder} is not finished: {counted(missing, 'block')} missing. Run fungi segment again."
        )
    return bank


def read_manifest(folder: Path) -> BankManifest:
    """Return the description of the bank in a folder. Raises FungiError if the description is missing or damaged."""
    try:
        raw = _read_record(folder / MANIFEST)
        return BankManifest(**{**raw, "ends": tuple(raw["ends"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / MANIFEST, str(error)) from None


def _with_checksum(values: dict[str, Any]) -> str:
    """Return a record as JSON, with a checksum."""
    values = json.loads(json.dumps(values))  # converts tuples to lists, so that the checksum fits the written text
    return json.dumps(values | {"checksum": checksum_of_record(values)}, sort_keys=True, indent=1)


def _read_record(path: Path) -> dict[str, Any]:
    """Return a record without its checksum. Raises ValueError if the record is damaged or has no checksum."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise ValueError("it holds no record")
    compare_checksums(raw.pop("checksum", None), checksum_of_record(raw))
    return raw


def _damaged(path: Path, reason: str) -> DamagedFileError:
    return DamagedFileError(f"{path} is damaged ({reason}). Move the folder of this bank away and run again.")
