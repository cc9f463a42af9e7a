"""HDF5 files that HDF5 only lays out: its part is written in memory, the arrays are written by ourselves.

Where a disk is full, HDF5 can't close its file and takes the process down with it. Here the library never touches the
disk: it writes its headers into memory and says where each array lies; headers and rows then go to the file as plain
writes, which fail as an OSError that can be told to a person.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from jaxtyping import Shaped

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

    def _parts(self, size: int) -> Iterator[tuple[int, int, int, int]]:
        """The next `size` bytes, page by page: number of the page, offset in the data, start and stop in the page."""
        first = 0
        while first < size:
            number, start = divmod(self._place + first, PAGE)
            stop = min(PAGE, start + size - first)
            yield number, first, start, stop
            first += stop - start


@dataclass
class Skeleton:
    """A file in the making: `add` arrays and attributes to `file` inside `laid_out`, then write it and its rows."""

    file: h5py.File
    headers: _Headers
    places: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
        """An array whose room is set aside at once and filled by `write_rows`."""
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.CONTIGUOUS)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        layout.set_obj_track_times(False)
        kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
        array = h5py.Dataset(h5py.h5d.create(self.file.id, name.encode(), kind, space, layout))
        self.places[name] = array.id.get_offset() or 0
        return array

    def write_to(self, path: Path) -> None:
        """Write headers and gaps."""
        with path.open("wb") as file:
            for number, page in sorted(self.headers.pages.items()):
                file.seek(number * PAGE)
                file.write(page)
            file.truncate(self.headers.size)

    def write_rows(self, file: BinaryIO, name: str, start: int, values: Shaped[np.ndarray, " b *d"]) -> None:
        """Fill an array from row `start` on. OSError where there is no room."""
        row_bytes = values.dtype.itemsize * int(np.prod(values.shape[1:]))
        file.seek(self.places[name] + start * row_bytes)
        file.write(np.ascontiguousarray(values).tobytes())


@contextmanager
def laid_out() -> Iterator[Skeleton]:
    """An empty file to lay out; when the block ends its headers are complete."""
    headers = _Headers()
    with h5py.File(headers, "w") as file:
        yield Skeleton(file, headers)
