"""Unpack archives into folders, each complete or not there at all; and download what a program can download.

An archive is a stranger's file: a member that would land outside the target, a link, a device or a name that no file
can have is refused before that member is written, and so is an archive that swells beyond all reason.
"""

import gzip
import lzma
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.log import logger

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


LARGEST_SWELLING = 200
"""Bytes unpacked per byte of an archive; images, sounds and tables swell by less than 20."""
ALWAYS_ALLOWED = 1 << 30
BYTES_OF_A_MEMBER = 512
"""What each file counts at least, so that a million empty ones are no way around."""


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `target` when the work in it is done, and removed where it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def is_there(target: Path) -> bool:
    """Return whether a folder or file exists, and log it if so; an empty folder counts as missing."""
    exists = any(target.iterdir()) if target.is_dir() else target.exists()
    if exists:
        logger.info("%s is there already (remove it to have it made again)", target)
    return exists


def find_archive(folder: Path, *patterns: str) -> Path:
    """Return the first file in `folder` that matches one of the patterns; MissingFilesError naming them."""
    for pattern in patterns:
        for archive in sorted(folder.expanduser().glob(pattern)):
            return archive
    raise MissingFilesError(f"there is no {' or '.join(patterns)} in {folder}. Download it; --help has the commands.")


def unpack(archive: Path, into: Path, *, below: str = "") -> None:
    """Unpack a .zip or .tar(.gz, ...) into a folder; with `below`, only that folder of it, without the prefix.

    Raises FungiError for a damaged archive, one with a dangerous member, or one that holds nothing below `below`.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                written = _write_members(archive, _zip_members(file), into, below)
        else:
            with tarfile.open(archive) as file:
                written = _write_members(archive, _tar_members(archive, file), into, below)
                while file.fileobj and file.fileobj.read(1 << 20):  # to the end, where the checksum is
                    pass
    except _DAMAGE as error:
        raise FungiError(f"the archive {archive} is damaged ({error}). Download it again.") from error
    except OSError as error:
        raise FungiError(
            f"can't unpack {archive} into {into} ({error}). Make room, or choose another place."
        ) from error
    if not written:
        raise FungiError(f"the archive {archive} holds no {below or 'files'}. Is it the right one?")


def unpack_folder(archive: Callable[[], Path], below: str, target: Path) -> None:
    """Make the folder `target` from a folder of an archive; nothing to do where it is there already.

    An archive that holds the folder twice nested (`cars_train/cars_train/*.jpg`) is flattened.
    """
    if is_there(target):
        return
    source = archive()
    logger.info("unpacking %s of %s", below or "all", source)
    with made_whole(target) as work:
        unpack(source, work, below=below)
        _flatten(work, PurePosixPath(below).name)
    logger.info("wrote %s", target)


def unpack_file(archive: Callable[[], Path], name: str, target: Path) -> None:
    """Make the file `target` from one file of an archive; nothing to do where it is there already."""
    if is_there(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.partial-", dir=target.parent) as work:
        unpack(archive(), Path(work), below=name)
        (Path(work) / target.name).rename(target)
    logger.info("wrote %s", target)


def fetch(url: str, into: Path) -> Path:
    """Download one file over HTTPS; FungiError where the network or the server refuses."""
    assert url.startswith("https://")
    target = into / url.rpartition("/")[2]
    try:
        with urllib.request.urlopen(url) as answer, target.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise FungiError(f"can't download {url} ({error}). Fetch it by hand on a machine with a network.") from error
    return target


def _zip_members(file: zipfile.ZipFile) -> Iterator[tuple[str, Callable[[], Any]]]:
    for member in file.infolist():
        if not member.is_dir():
            yield member.filename, partial(file.open, member)


def _tar_members(archive: Path, file: tarfile.TarFile) -> Iterator[tuple[str, Callable[[], Any]]]:
    for member in file:
        if not (member.isreg() or member.isdir()):
            raise FungiError(f"the archive {archive} was refused: {member.name!r} is a link or a device.")
        if member.isreg():
            yield member.name, partial(file.extractfile, member)


def _write_members(archive: Path, members: Iterator[tuple[str, Callable[[], Any]]], into: Path, below: str) -> int:
    """Write the files of an archive; return how many."""
    written, room = 0, max(ALWAYS_ALLOWED, LARGEST_SWELLING * archive.stat().st_size)
    for name, open_member in members:
        path = PurePosixPath(name)
        if not path.parts or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
            raise FungiError(f"the archive {archive} was refused: no file can be called {name!r}.")
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
            raise FungiError(f"the archive {archive} was refused: its member {name!r} would land outside the folder.")
        if below and not path.is_relative_to(below):
            continue
        inner = path.relative_to(below) if below else path
        target = into / (inner if inner.parts else path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_member() as content, target.open("wb") as file:
            room -= max(BYTES_OF_A_MEMBER, _copied(content, file, room))
        if room < 0:
            raise FungiError(
                f"the archive {archive} was refused: it is a bomb, which swells to more than {LARGEST_SWELLING} times "
                f"its size ({name!r} is where it was stopped). Download it again from its official source."
            )
        written += 1
    return written


def _copied(content: Any, file: Any, room: int) -> int:
    """Copy a member; return how many bytes it has, `room + 1` where it has more than `room`."""
    copied = 0
    while copied <= room and (part := content.read(min(1 << 20, room + 1 - copied))):
        file.write(part)
        copied += len(part)
    return copied


def _flatten(folder: Path, name: str) -> None:
    inner = folder / name
    if name and inner.is_dir() and [entry.name for entry in folder.iterdir()] == [name]:
        inner.rename(folder / f".{name}")
        for entry in (folder / f".{name}").iterdir():
            entry.rename(folder / entry.name)
        (folder / f".{name}").rmdir()
