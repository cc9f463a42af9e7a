"""Write files atomically: a reader sees either the complete file or no file."""

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

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of the system if the disk or the quota is full, or if the file is larger than allowed."""


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; flush and rename it to `path` if the block raises no error.

    Several processes may write `path` at once: each has its own temporary path, and the last rename wins.
    """
    with _temporary_path(path) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file, utf-8, under a temporary name that becomes `path` once all of it is on the disk."""
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def written_once(path: Path) -> Iterator[Path]:
    """Write as `written_atomically` does, but the first of several writers wins: versions that come later are dropped.

    For content that must be the same for all readers, although two computations of it may differ in a few bits. Orphans
    in the same folder are removed.
    """
    remove_orphans(path.parent)
    with _temporary_path(path) as temporary:
        yield temporary
        _flush(temporary)
        _take_free_name(temporary, path)
        _flush(path.parent)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 hash of the content of a file, in hexadecimal; this takes about 1 s per gigabyte."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure_folder(path: Path) -> None:
    """Create a folder and its parents, if they do not exist yet.

    Raises FileExistsError if a file has the name. `Path.mkdir` raises it as well if another process removes the folder
    at the same moment; then this tries again.
    """
    while True:
        try:
            path.mkdir(parents=True, exist_ok=True)
            return
        except FileExistsError:
            if os.path.lexists(path) and not path.is_dir():
                raise


def save_with_torch(content: Any, path: Path) -> None:
    """Write a file atomically with `torch.save`, and remove the orphans in its folder.

    Raises OSError if the disk is full; torch itself raises another error.
    """
    import torch

    remove_orphans(path.parent)
    with written_atomically(path) as temporary, temporary.open("wb") as file:
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
    ensure_folder(path.parent)
    lock_file = path.with_name(f".{path.name}{LOCK}")
    handle = _locked_file(lock_file)
    try:
        yield
    finally:
        lock_file.unlink(missing_ok=True)  # before unlocking: a process that waits for it then creates a new file
        os.close(handle)


def is_free_lock(path: Path) -> bool:
    """Return whether a file is a lock file of `locked` that no process uses, because its process was killed."""
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
def _temporary_path(path: Path) -> Iterator[Path]:
    ensure_folder(path.parent)
    temporary = unfinished_name(path)
    try:
        yield temporary
    except OSError as error:
        if error.filename is None:  # the error of a failed write does not name the file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _take_free_name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, this fails if the name is taken
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
