"""Sequences of strings that are stored in one buffer.

Reading a Python string changes its reference count. Worker processes would therefore copy the memory of a list of a
million strings, although they only read the list. Workers can share one array of bytes without a copy, and the array is
pickled in one piece.
"""

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np

from fungi.errors import FungiError


class PackedNames(Sequence[str]):
    """An immutable sequence of strings. Raises FungiError for a file name that is not valid Unicode."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [_encode(name) for name in names]
        lengths = np.fromiter((len(name) for name in encoded), dtype=np.int64, count=len(encoded))
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> "PackedNames": ...
    def __getitem__(self, row: int | slice) -> "str | PackedNames":
        if isinstance(row, slice):
            return PackedNames(self[index] for index in range(*row.indices(len(self))))
        row = range(len(self))[row]  # counts a negative index from the end, as a list does
        start, end = int(self._ends[row - 1]) if row else 0, int(self._ends[row])
        return self._bytes[start:end].tobytes().decode()


def _encode(name: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise FungiError(f"the file name {name!r} is not valid UTF-8. Rename the file.") from None
