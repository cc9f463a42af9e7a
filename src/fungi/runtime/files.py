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
"""Error numbers of file systems that can't flush a folder."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers for a full disk, an exceeded quota, or a file that is larger than allowed."""


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`. If the `with` statement raises no error, rename it to `path`.

    Several processes may write `path` at once: each has its own temporary path, and the last rename wins.
    """
    with _temporary_path(path) as temporary:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def written_once(path: Path) -> Iterator[Path]:
    """Write like `written_atomically`, but keep the file of the first writer and drop the files of later writers.

    Use this function if all readers must see the same content, but two computations of the content may differ in a few
    bits. The function also removes the orphans in the same folder.
    """
    remove_orphans(path.parent)
    with _temporary_path(path) as temporary:
        yield temporary
        _flush(temporary)
        _rename_unless_exists(temporary, path)
        _flush(path.parent)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 hash of the content of a file, in hexadecimal; this takes about 1 s per gigabyte."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure_folder(path: Path) -> None:
    """Create a folder and its parents, if they do not exist yet.

    Raises FileExistsError if a file has this name. `Path.mkdir` also raises this error if another process removes the
    folder at the same moment; in this case, `ensure_folder` tries again.
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

    Raises OSError if the disk is full. (torch raises a RuntimeError in this case.)
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
    """Lock a path inside the `with` statement.

    Other processes that lock the path wait, also on other machines that share the folder. The kernel (on NFS, the
    server) releases the lock if the process dies. On a file system without locks, nothing is locked.
    """
    ensure_folder(path.parent)
    lock_file = path.with_name(f".{path.name}{LOCK}")
    descriptor = _locked_file(lock_file)
    try:
        yield
    finally:
        # Remove the file before unlocking it: waiting processes notice the removal and create a new lock file.
        lock_file.unlink(missing_ok=True)
        os.close(descriptor)


def is_free_lock(path: Path) -> bool:
    """Return whether a file is a lock file of `locked` whose process was killed."""
    if not (path.name.startswith(".") and path.name.endswith(LOCK)):
        return False
    try:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _locked_file(path: Path) -> int:
    """Create and lock a file, and return its descriptor; try again if another process removes the file meanwhile."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


@contextmanager
def _temporary_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; afterwards, remove the file if it still exists."""
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


def _rename_unless_exists(temporary: Path, path: Path) -> None:
    """Give a temporary file its name, unless a file with this name exists."""
    try:
        os.link(temporary, path)  # unlike a rename, a link fails if the file exists
    except FileExistsError:
        return
    except OSError:  # the file system has no hard links
        if not path.exists():
            temporary.replace(path)


def _flush(path: Path) -> None:
    """Write the cached content of a file, or the cached entries of a folder, to the disk.

    Do nothing for folders on file systems that can't do this (CIFS, sshfs, VirtualBox).
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
