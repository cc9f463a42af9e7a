"""The seal: checksums of a feature file, appended after its HDF5 part, where HDF5 ignores them.

HDF5 has a checksum per chunk (fletcher32), but no checksum of its headers, and a damaged header can crash the library.
The seal covers every byte, and is checked before HDF5 opens the file:

    [HDF5 part] [JSON: checksums] [CRC-32 of the JSON, its length, MAGIC]

Each array has one CRC-32 per mebibyte of rows, so that a reader of a few rows checks only these rows. All other bytes
(attributes, sample ids, class names) share one CRC-32. A CRC-32 detects every flipped bit and every run of up to 32
damaged bits, but does not protect against deliberate changes. Other programs ignore the seal. A file without a seal (of
the published code, or edited with another program) is read without a check.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from jaxtyping import Shaped

from fungi.errors import FungiError

MAGIC = b"FUNGIsum"
"""Last bytes of a file with a seal."""
SEGMENT_BYTES = 1 << 20
"""Largest number of bytes of rows that share a CRC-32; a longer row has a CRC-32 of its own."""
_END = struct.Struct("<IQ8s")
"""Format of the last bytes of a file: CRC-32 of the JSON, length of the JSON in bytes, MAGIC."""


class DamagedFileError(FungiError):
    """Raised if the content of a file of this program has changed since it was written."""


@dataclass
class ArrayChecksums:
    """Position of the rows of an array in the file, and one CRC-32 per segment of `segment_rows` rows.

    Pass rows to `add` in order. The last segment may be shorter.

    offset: position of the first byte of the array. row_bytes, rows: number of bytes of a row, and number of rows.
    values: the CRC-32 of each segment.
    """

    offset: int
    row_bytes: int
    rows: int
    segment_rows: int = 0
    values: list[int] = field(default_factory=list)
    _filled: int = 0
    """Number of bytes that were added."""

    def __post_init__(self) -> None:
        self.segment_rows = self.segment_rows or max(1, SEGMENT_BYTES // max(1, self.row_bytes))

    @property
    def stop(self) -> int:
        """Position of the first byte after the array."""
        return self.offset + self.rows * self.row_bytes

    def add(self, content: memoryview) -> None:
        """Add the bytes of the next rows to the checksums."""
        segment_bytes = self.segment_rows * self.row_bytes
        while content:
            if self._filled % segment_bytes == 0:
                self.values.append(0)
            part = content[: segment_bytes - self._filled % segment_bytes]
            self.values[-1] = crc32(part, self.values[-1])
            self._filled += len(part)
            content = content[len(part) :]

    def segments(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first row, and the row after the last row, of the segments that contain the rows `start:stop`."""
        first = start // self.segment_rows * self.segment_rows
        end = -(-stop // self.segment_rows) * self.segment_rows  # rounded up
        return first, min(end, self.rows)

    def check(self, path: Path, key: str, start: int, content: memoryview) -> None:
        """Check the bytes of complete segments from row `start`. Raises DamagedFileError if they have changed."""
        segment_bytes = self.segment_rows * self.row_bytes
        first_segment = start // self.segment_rows
        for segment, position in enumerate(range(0, len(content), segment_bytes), first_segment):
            if crc32(content[position : position + segment_bytes]) != self.values[segment]:
                first_row = segment * self.segment_rows
                last_row = min(first_row + self.segment_rows, self.rows) - 1
                raise damaged(path, f"the checksum of rows {first_row} to {last_row} of {key!r} is wrong")


@dataclass(frozen=True)
class Seal:
    """The checksums of a file.

    size: number of bytes of its HDF5 part. rest: CRC-32 of all bytes of this part outside the arrays.
    """

    size: int
    rest: int
    arrays: dict[str, ArrayChecksums]


def bytes_of(values: Shaped[np.ndarray, "..."]) -> memoryview:
    """Return the bytes of an array in row order, without a copy if the array is contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def damaged(path: Path, reason: str) -> DamagedFileError:
    """Return the error for a feature file whose content has changed since it was written."""
    return DamagedFileError(f"{path} is damaged: {reason}. Run the stage that wrote it again with --overwrite.")


def write_seal(path: Path, arrays: dict[str, ArrayChecksums]) -> None:
    """Append the seal to a complete HDF5 file, after all rows were passed to `ArrayChecksums.add`."""
    with path.open("r+b") as file:
        hdf5_bytes = file.seek(0, 2)
        rest = _checksum_of_rest(file, hdf5_bytes, arrays.values())
        records = {name: asdict(array) for name, array in arrays.items()}
        for record in records.values():
            del record["_filled"]
        text = json.dumps({"size": hdf5_bytes, "rest": rest, "arrays": records}).encode()
        file.seek(hdf5_bytes)
        file.write(text + _END.pack(crc32(text), len(text), MAGIC))


def read_seal(path: Path) -> Seal | None:
    """Check all bytes outside the arrays, and return the seal of the file; None for a file without a seal.

    Raises DamagedFileError if these bytes or the seal have changed.
    """
    with path.open("rb") as file:
        file_bytes = file.seek(0, 2)
        file.seek(max(0, file_bytes - _END.size))
        end = file.read()
        if len(end) < _END.size or not end.endswith(MAGIC):
            return None
        checksum, length, _ = _END.unpack(end)
        hdf5_bytes = file_bytes - _END.size - length
        if hdf5_bytes < 0:
            raise damaged(path, "its checksums are incomplete")
        file.seek(hdf5_bytes)
        text = file.read(length)
        if crc32(text) != checksum:
            raise damaged(path, "its checksums can't be read")
        values = json.loads(text)
        arrays = {name: ArrayChecksums(**array) for name, array in values["arrays"].items()}
        if values["size"] != hdf5_bytes or values["rest"] != _checksum_of_rest(file, hdf5_bytes, arrays.values()):
            raise damaged(path, "the checksum of its attributes is wrong")
    return Seal(hdf5_bytes, values["rest"], arrays)


def _checksum_of_rest(file: BinaryIO, size: int, arrays: Iterable[ArrayChecksums]) -> int:
    """Return the CRC-32 of the first `size` bytes of a file without the bytes of the arrays."""
    checksum = 0
    for start, stop in ranges_outside(size, arrays):
        checksum = checksum_of_range(file, start, stop, checksum)
    return checksum


def checksum_of_range(file: BinaryIO, start: int, stop: int, checksum: int = 0) -> int:
    """Return the CRC-32 of the bytes `start:stop` of a file, continued from `checksum`.

    If the file ends before `stop`, the CRC-32 covers only the bytes up to its end.
    """
    file.seek(start)
    while start < stop and (part := file.read(min(SEGMENT_BYTES, stop - start))):
        checksum, start = crc32(part, checksum), start + len(part)
    return checksum


def ranges_outside(size: int, arrays: Iterable[ArrayChecksums]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the ranges of the first `size` bytes that lie outside all arrays."""
    start = 0
    for array in sorted(arrays, key=lambda array: array.offset):
        yield start, array.offset
        start = array.stop
    yield start, size


def compare_checksums(stored: str | None, checksum: str) -> None:
    """Raise ValueError if the stored checksum of a file is missing or differs from the checksum of its content."""
    if stored is None:
        raise ValueError("it has no checksum")
    if stored != checksum:
        raise ValueError("its checksum differs")


def checksum_of_record(values: dict[str, Any]) -> str:
    """Return the CRC-32, as eight hexadecimal digits, of a record of JSON values without its entry `checksum`."""
    content = {name: value for name, value in values.items() if name != "checksum"}
    return f"{crc32(json.dumps(content, sort_keys=True).encode()):08x}"
