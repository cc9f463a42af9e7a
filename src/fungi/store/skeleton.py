"""Write HDF5 files so that the HDF5 library writes only headers, and only to memory, never to the disk.

On a full disk, HDF5 can't close its file and ends the process. Therefore HDF5 writes the headers to memory and reports
the position of each array in the file. We then write rows and headers to the file, and a full disk raises an OSError.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from jaxtyping import Shaped

from fungi.store.seal import ArrayChecksums, bytes_of, ranges_outside, write_seal

PAGE = 4096  # number of bytes


class _Headers(io.RawIOBase):
    """A file in memory that stores only written pages, so that empty arrays need no memory.

    HDF5 passes data as memory views of a type that Cython defines, so the arguments have the type `Any`.
    """

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.size = self._position = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        return self.size

    def write(self, data: Any) -> int:
        for number, offset, start, stop in self._parts(len(data)):
            page = self.pages.setdefault(number, bytearray(PAGE))
            page[start:stop] = data[offset : offset + stop - start]
        self._position += len(data)
        self.size = max(self.size, self._position)
        return len(data)

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self.size - self._position))
        for number, offset, start, stop in self._parts(size):
            buffer[offset : offset + stop - start] = self.pages.get(number, bytes(PAGE))[start:stop]
        self._position += size
        return size

    def written_pages(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield the position and content of each written page within `start:stop`."""
        first = start // PAGE
        for number in range(first, -(-stop // PAGE)):
            if number in self.pages:
                begin, end = max(start, number * PAGE), min(stop, (number + 1) * PAGE)
                yield begin, bytes(self.pages[number][begin - number * PAGE : end - number * PAGE])

    def _parts(self, size: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the next `size` bytes by page: number of the page, offset in the data, start and stop in the page."""
        offset = 0
        while offset < size:
            number, start = divmod(self._position + offset, PAGE)
            stop = min(PAGE, start + size - offset)
            yield number, offset, start, stop
            offset += stop - start


@dataclass
class Skeleton:
    """An HDF5 file whose headers are in memory and whose rows are on the disk.

    Use it inside `new_skeleton`: `add` arrays, write their rows with `append_rows`, and set the attributes of `file`.
    After the `with` statement, `write_headers` completes the file on the disk.
    """

    file: h5py.File
    headers: _Headers
    arrays: dict[str, ArrayChecksums] = field(default_factory=dict)
    _next_rows: dict[str, int] = field(default_factory=dict)
    """Name of an array -> number of its rows that were written."""

    def add(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
        """Add an array and return it. This fixes its position in the file; `append_rows` writes its rows later."""
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.CONTIGUOUS)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        layout.set_obj_track_times(False)
        kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
        array = h5py.Dataset(h5py.h5d.create(self.file.id, name.encode(), kind, space, layout))
        row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
        self.arrays[name] = ArrayChecksums(array.id.get_offset() or 0, row_bytes, shape[0])
        return array

    def add_texts(self, name: str, texts: Sequence[str]) -> None:
        """Add an array of texts, in UTF-8 with variable length. HDF5 stores them with its headers."""
        kind = h5py.string_dtype("utf-8")
        self.file.create_dataset(name, data=np.array(texts, dtype=object), dtype=kind, track_times=False)

    def append_rows(self, file: BinaryIO, name: str, values: Shaped[np.ndarray, " b *d"]) -> None:
        """Write the next rows of an array. Raises OSError if the disk is full."""
        array, row = self.arrays[name], self._next_rows.get(name, 0)
        content = bytes_of(values)
        assert row + len(values) <= array.rows, (name, row, len(values), array.rows)
        file.seek(array.offset + row * array.row_bytes)
        file.write(content)
        array.add(content)
        self._next_rows[name] = row + len(values)

    def write_headers(self, path: Path) -> None:
        """Write everything except the arrays, and then all checksums."""
        with path.open("r+b") as file:
            for start, stop in ranges_outside(self.headers.size, self.arrays.values()):
                for position, content in self.headers.written_pages(start, stop):
                    file.seek(position)
                    file.write(content)
            file.truncate(self.headers.size)
        write_seal(path, self.arrays)


@contextmanager
def new_skeleton() -> Iterator[Skeleton]:
    """Yield an empty file. Its headers are complete after the `with` statement."""
    headers = _Headers()
    with h5py.File(headers, "w") as file:
        yield Skeleton(file, headers)
