"""Digests of the samples of a split, without reading all bytes: 100,000 files take seconds, a million take a minute.

The digest of a file covers its size and a few pieces. Files up to 16 KiB are hashed completely. In larger files, pieces
of 4 KiB are hashed: at the start, at two places in the middle and at the end. These pieces are enough for compressed
files (JPEG, PNG, WebP), because a changed pixel changes all bytes after it. In uncompressed files, a change can affect
only one byte, so uncompressed files are hashed completely. Folder names, times and permissions are not part of a
digest, so a copy of a file has the same digest.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fungi.errors import FungiError, MissingFilesError

PIECE = 4096
"""Number of bytes of a piece."""
FULLY_HASHED = 4 * PIECE
"""Largest size in bytes of a file that is hashed completely; larger files are hashed in four pieces."""

UNCOMPRESSED = (b"RIFF", b"BM", b"P5", b"P6", b"II*\0", b"MM\0*")
"""First bytes of uncompressed files: WAV, BMP, PGM, PPM and TIFF."""

READERS = 16
"""Number of threads that read files; most of the time is spent waiting for the file system."""

Reader = Callable[[int, int], bytes]
"""Function (offset, size) -> bytes of the file."""


def digest_of_bytes(data: bytes) -> bytes:
    """Return the digest of the bytes of a file. `digest_of_file` returns the same digest for that file."""
    return _digest(lambda offset, size: data[offset : offset + size], len(data))


def digest_of_file(path: Path, sample_id: str) -> bytes:
    """Return the digest of a file.

    Raises MissingFilesError if the file does not exist, and FungiError if it can't be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would otherwise wait forever
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise FungiError(f"sample {sample_id!r}: {path} is not a regular file. Replace it.")
            return _digest(lambda offset, size: os.pread(handle, size, offset), status.st_size)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise no_such_file(path, sample_id) from None
    except OSError as error:
        raise FungiError(f"sample {sample_id!r}: can't read {path} ({error.strerror}). Replace the file.") from None


def no_such_file(path: Path | str, sample_id: str) -> MissingFilesError:
    """Return the error for a missing file of a sample."""
    return MissingFilesError(f"sample {sample_id!r}: there is no file {path}. Unpack the dataset again.")


def digest_of_item(item: Any) -> bytes:
    """Return the digest of a loaded item: a text, a tuple of texts, an image or an array."""
    if isinstance(item, tuple | list):
        return hashlib.sha256(b"".join(digest_of_item(part) for part in item)).digest()
    if isinstance(item, str):
        return hashlib.sha256(item.encode()).digest()
    values = np.asarray(item)
    return hashlib.sha256(
        f"{values.dtype.str} {values.shape}".encode() + np.ascontiguousarray(values).tobytes()
    ).digest()


def digests(load: Callable[[int], Any], rows: int) -> Iterator[bytes]:
    """Yield the digests of the rows 0 to `rows` - 1 in order, joined for 256 rows at a time.

    If the loader has a method `content(row) -> bytes`, this method returns the digests. Otherwise, each item is loaded.
    """
    digest_of_row = getattr(load, "content", None) or (lambda row: digest_of_item(load(row)))
    row_ranges = [range(start, min(start + 256, rows)) for start in range(0, rows, 256)]
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda row_range: b"".join(map(digest_of_row, row_range)), row_ranges)


def _digest(read: Reader, size: int) -> bytes:
    """Return the digest of a file of `size` bytes, as described at the start of this module."""
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    head = read(0, FULLY_HASHED if size <= FULLY_HASHED else PIECE)
    digest.update(head)
    if size > FULLY_HASHED:
        all_offsets = range(PIECE, size, PIECE)
        few_offsets = (size // 3, 2 * size // 3, size - PIECE)
        for offset in all_offsets if head.startswith(UNCOMPRESSED) else few_offsets:
            digest.update(read(offset, PIECE))
    return digest.digest()
