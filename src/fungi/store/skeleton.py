"""HDF5 files whose layout HDF5 determines in memory, while rows and headers are written with plain writes.

On a full disk, HDF5 can't close its file and ends the whole process. Here the library never touches the disk: it writes
its headers into memory and reports the place of each array. Rows and headers then go to the file as plain writes, which
fail with an OSError that a message can name.
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

PAGE = 4096


class _Headers(io.RawIOBase):
    """A file in memory that keeps only the pages that were written: arrays that are laid out but empty take no room.

    HDF5 hands over memory views of Cython's own type.
    """

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.size = self._place = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def truncate(self, size: int | None = None) -> int:
        self.size = self._place if size is None else size
        return self.size

    def write(self, data: Any) -> int:
        for number, first, start, stop in self._parts(len(data)):
            page = self.pages.setdefault(number, bytearray(PAGE))
            page[start:stop] = data[first : first + stop - start]
        self._place += len(data)
        self.size = max(self.size, self._place)
        return len(data)

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self.size - self._place))
        for number, first, start, stop in self._parts(size):
            buffer[first : first + stop - start] = self.pages.get(number, bytes(PAGE))[start:stop]
        self._place += size
        return size

    def written(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield the position and content of each written page within `start:stop`."""
        first = start // PAGE
        for number in range(first, -(-stop // PAGE)):
            if number in self.pages:
                begin, end = max(start, number * PAGE), min(stop, (number + 1) * PAGE)
                yield begin, bytes(self.pages[number][begin - number * PAGE : end - number * PAGE])

    def _parts(self, size: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the next `size` bytes by page: number of the page, offset in the data, start and stop in the page."""
        first = 0
        while first < size:
            number, start = divmod(self._place + first, PAGE)
            stop = min(PAGE, start + size - first)
            yield number, first, start, stop
            first += stop - start


@dataclass
class Skeleton:
    """A file that is being laid out.

    Inside `laid_out`: `add` arrays to it, fill each with `append_rows`, and give `file` its attributes and texts.
    Afterwards `write_headers` completes the file on disk.
    """

    file: h5py.File
    headers: _Headers
    arrays: dict[str, ArrayChecksums] = field(default_factory=dict)
    _next_rows: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
        """Add an array. Its place in the file is reserved at once; `append_rows` fills it."""
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
        """Add an array of texts, utf-8 of variable length. HDF5 keeps them among its headers."""
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
                for place, content in self.headers.written(start, stop):
                    file.seek(place)
                    file.write(content)
            file.truncate(self.headers.size)
        write_seal(path, self.arrays)


@contextmanager
def laid_out() -> Iterator[Skeleton]:
    """Yield an empty file to lay out; when the block ends its headers are complete."""
    headers = _Headers()
    with h5py.File(headers, "w") as file:
        yield Skeleton(file, headers)
