"""Digests of the samples of a split, without reading all of it: 100,000 files in seconds, a million in a minute.

Of a file its size and a few pieces are hashed: all of it up to 16 KiB, else 4 KiB at the start, at two places between
and at the end. In compressed files (JPEG, PNG, WebP) a changed pixel moves everything behind it, checksums at the end
included. Files without compression, where a change can stay in one place, are hashed as a whole. Names of folders,
times and permissions take no part, so that a copy elsewhere has the same content.
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
WHOLE = 4 * PIECE
"""Bytes up to which a file is hashed as a whole; larger ones by four pieces."""

UNCOMPRESSED = (b"RIFF", b"BM", b"P5", b"P6", b"II*\0", b"MM\0*")
"""First bytes of WAV, BMP, PGM, PPM and TIFF."""

READERS = 16
"""Files that are read at once: what takes time is waiting for the file system."""

Reader = Callable[[int, int], bytes]
"""(offset, size) -> bytes."""


def digest_of_bytes(data: bytes) -> bytes:
    """Return the digest of a file's content that is held in memory; the same as `digest_of_file` of that file."""
    return _digest(lambda offset, size: data[offset : offset + size], len(data))


def digest_of_file(path: Path, sample_id: str) -> bytes:
    """Return the digest of a file. MissingFilesError where it isn't there, FungiError where it can't be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would keep us waiting for ever
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise FungiError(f"sample {sample_id!r}: {path} is no regular file. Replace it.")
            return _digest(lambda offset, size: os.pread(handle, size, offset), status.st_size)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise no_such_file(path, sample_id) from None
    except OSError as error:
        raise FungiError(f"sample {sample_id!r}: can't read {path} ({error.strerror}). Replace the file.") from None


def no_such_file(path: Path | str, sample_id: str) -> MissingFilesError:
    """Return the error for a sample whose file is gone."""
    return MissingFilesError(f"sample {sample_id!r}: there is no file {path}. Unpack the dataset again.")


def digest_of_item(item: Any) -> bytes:
    """Return the digest of an item as it was loaded: a text (or several), an image, an array."""
    if isinstance(item, tuple | list):
        return hashlib.sha256(b"".join(digest_of_item(part) for part in item)).digest()
    if isinstance(item, str):
        return hashlib.sha256(item.encode()).digest()
    values = np.asarray(item)
    return hashlib.sha256(
        f"{values.dtype.str} {values.shape}".encode() + np.ascontiguousarray(values).tobytes()
    ).digest()


def digests(load: Callable[[int], Any], rows: int) -> Iterator[bytes]:
    """Yield 32 bytes per row, in order, that tell its item from others.

    A loader that knows a cheap way has a method `content(row) -> bytes`; of others each item is loaded.
    """
    of_row = getattr(load, "content", None) or (lambda row: digest_of_item(load(row)))
    chunks = [range(start, min(start + 256, rows)) for start in range(0, rows, 256)]
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda chunk: b"".join(map(of_row, chunk)), chunks)


def _digest(read: Reader, size: int) -> bytes:
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    head = read(0, WHOLE if size <= WHOLE else PIECE)
    digest.update(head)
    if size > WHOLE:
        every_piece = head.startswith(UNCOMPRESSED)
        for offset in range(PIECE, size, PIECE) if every_piece else (size // 3, 2 * size // 3, size - PIECE):
            digest.update(read(offset, PIECE))
    return digest.digest()
