"""Files that are either whole or not there."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fungi.runtime.owner import remove_orphans, unfinished_name

LOCK = ".lock"
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS)
"""Errors of file systems that can't flush a folder."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room: on the disk, in the quota, for a file of this size."""


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


def write_whole(path: Path, text: str) -> None:
    """Write a text file, utf-8, under a temporary name that becomes `path` once all of it is on the disk."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def written_once(path: Path) -> Iterator[Path]:
    """Write as `written_whole` does, but the first of several writers wins: versions that come later are dropped.

    For what has to be the same for all who read it, and may not come out bit for bit the same twice. What killed
    processes left beside it goes.
    """
    remove_orphans(path.parent)
    with _beside(path) as temporary:
        yield temporary
        _flush(temporary)
        _take_free_name(temporary, path)
        _flush(path.parent)


def sha256_of(path: Path) -> str:
    """Hash of all that is in a file: about 1 s for a gigabyte."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_with_torch(content: Any, path: Path) -> None:
    """`torch.save` to a whole file; what killed processes left beside it goes.

    Raises OSError if the disk is full; torch itself raises another error.
    """
    import torch

    remove_orphans(path.parent)
    with written_whole(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a path: no other process, on any machine that shares the folder, runs such a block for it meanwhile.

    The kernel (on NFS, the server) holds the lock, so that a process that dies gives it up. On a file system without
    locks the block runs unlocked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}{LOCK}")
    handle = _locked_file(beside)
    try:
        yield
    finally:
        beside.unlink(missing_ok=True)  # while it is ours: who waits for it finds it gone, and takes a new one
        os.close(handle)


def is_free_lock(path: Path) -> bool:
    """Return whether a file is a lock of `locked` that nobody holds: left by a process that was killed."""
    if not (path.name.startswith(".") and path.name.endswith(LOCK)):
        return False
    try:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _locked_file(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):
            fcntl.lockf(handle, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished_name(path)
    try:
        yield temporary
    except OSError as error:
        if error.filename is None:  # a write that failed does not know of which file
            error.filename = str(path)
        raise
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
    """Make sure that the content (of a folder: its entries) is on the disk and not only in its cache.

    Some file systems (CIFS, sshfs, VirtualBox) can't do so for folders; they are left to do it in their own time.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED or not path.is_dir():
            raise
    finally:
        os.close(handle)
