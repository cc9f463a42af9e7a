"""Files that are either whole or not there."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; flush, and rename it to `path` when the block ends well.

    Any number of writers may do so at once: each has a temporary name of its own, and the last rename wins.
    """
    with _beside(path) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)


@contextmanager
def written_once(path: Path) -> Iterator[Path]:
    """As `written_whole`, but the first of several writers wins: who comes later finds its own version dropped.

    For what has to be the same for all who read it, and may not come out bit for bit the same twice.
    """
    with _beside(path) as temporary:
        yield temporary
        _flush(temporary)
        _take_free_name(temporary, path)
        _flush(path.parent)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _take_free_name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, it fails where the name is taken
    except FileExistsError:
        return
    except OSError:  # a file system without hard links: look, then rename
        if not path.exists():
            temporary.replace(path)


def _flush(path: Path) -> None:
    """Make sure that the content (of a folder: its entries) is on the disk and not only in its cache."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
