"""Unpack archives into folders that are either complete or do not exist, and download single files.

Archives are not trusted. A member that is a link or a device, or that has an invalid name or a path outside of the
target, is refused before it is written. An archive that expands to an implausible size is refused, too.
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
from typing import IO, NamedTuple

from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.log import logger

_DAMAGE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
)
"""Errors of the unpackers for damaged archives."""

_SOURCE_ADVICE = "Download it again, from the source that scripts/prepare.py --help names."

LARGEST_EXPANSION = 200
"""Largest number of unpacked bytes per byte of an archive; images, sounds and tables need less than 20."""
ALWAYS_ALLOWED = 1 << 30
"""Number of unpacked bytes that are accepted from every archive, even if the archive is small."""
SMALLEST_MEMBER = 512
"""Number of bytes that a smaller file counts as. Otherwise, millions of empty files would be below the limit."""


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder. Rename it to `target` at the end of the `with` statement; remove it after an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def is_there(target: Path) -> bool:
    """Return whether a folder with content or a file exists at `target`. If so, log a message."""
    exists = any(target.iterdir()) if target.is_dir() else target.exists()
    if exists:
        logger.info("%s exists already; remove it to write it again", target)
    return exists


def find_archive(folder: Path, *patterns: str) -> Path:
    """Return the first file in `folder` that matches a pattern. Raises MissingFilesError if no file matches."""
    matches = [archive for pattern in patterns for archive in sorted(folder.expanduser().glob(pattern))]
    if matches:
        return matches[0]
    raise MissingFilesError(
        f"there is no {' or '.join(patterns)} in {folder}. Download it; scripts/prepare.py --help gives the source."
    )


def unpack(archive: Path, into: Path, *, below: str = "") -> None:
    """Unpack a .zip or .tar(.gz, ...) file into a folder.

    below: folder or file in the archive; empty for the complete archive. Only files below this folder are unpacked, and
        their new paths are relative to it.
    Raises FungiError for a damaged archive, a dangerous member, or an archive without these files.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                count = _write_members(archive, _zip_members(file), into, below)
        else:
            with tarfile.open(archive) as file:
                count = _write_members(archive, _tar_members(archive, file), into, below)
                while file.fileobj and file.fileobj.read(1 << 20):  # read to the end, where the checksum is verified
                    pass
    except _DAMAGE_ERRORS as error:
        raise FungiError(f"the archive {archive} is damaged ({error}). Download it again.") from error
    except OSError as error:
        raise FungiError(
            f"can't unpack {archive} into {into} ({error}). Free disk space, or choose another folder."
        ) from error
    if not count:
        raise FungiError(f"the archive {archive} does not contain {below or 'files'}. Download the correct archive.")


def unpack_folder(archive: Callable[[], Path], below: str, target: Path) -> None:
    """Unpack a folder of an archive to the folder `target`, unless `target` exists.

    archive: function that returns the path of the archive; called only if `target` does not exist.
    below: name of the folder in the archive. If it contains only a folder of the same name
        (`cars_train/cars_train/*.jpg`), the inner folder is unpacked.
    """
    if is_there(target):
        return
    source = archive()
    logger.info("unpacking %s of %s", below or "all", source)
    with atomic_folder(target) as work:
        unpack(source, work, below=below)
        _flatten(work, PurePosixPath(below).name)
    logger.info("wrote %s", target)


def unpack_file(archive: Callable[[], Path], name: str, target: Path) -> None:
    """Unpack the file `name` of an archive to `target`, unless `target` exists. archive: as in `unpack_folder`."""
    if is_there(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.partial-", dir=target.parent) as work:
        unpack(archive(), Path(work), below=name)
        (Path(work) / target.name).rename(target)
    logger.info("wrote %s", target)


def fetch(url: str, into: Path) -> Path:
    """Download a file over HTTPS and return its path. Raises FungiError if the network or the server fails."""
    assert url.startswith("https://")
    target = into / url.rpartition("/")[2]
    try:
        with urllib.request.urlopen(url) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)
    except OSError as error:
        raise FungiError(f"can't download {url} ({error}). Download it by hand on a machine with a network.") from error
    return target


class _Member(NamedTuple):
    """A file in an archive. size: number of bytes, as stated in the archive; reading stops after this number."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


def _zip_members(file: zipfile.ZipFile) -> Iterator[_Member]:
    for member in file.infolist():
        if not member.is_dir():
            yield _Member(member.filename, member.file_size, partial(file.open, member))


def _tar_members(archive: Path, file: tarfile.TarFile) -> Iterator[_Member]:
    """Yield the files in an archive. Raises FungiError for a link or a device."""
    for member in file:
        if not (member.isreg() or member.isdir()):
            raise FungiError(
                f"the archive {archive} was refused: {member.name!r} is a link or a device. {_SOURCE_ADVICE}"
            )
        if member.isreg():
            yield _Member(member.name, member.size, partial(file.extractfile, member))


def _write_members(archive: Path, members: Iterator[_Member], into: Path, below: str) -> int:
    """Write the files of an archive, and return their number. Raises FungiError for a dangerous member.

    into, below: as in `unpack`.
    """
    count = 0
    remaining_bytes = max(ALWAYS_ALLOWED, LARGEST_EXPANSION * archive.stat().st_size)
    for name, size, open_member in members:
        path = PurePosixPath(name)
        has_control_characters = any(ord(letter) < 32 or ord(letter) == 127 for letter in name)
        if not path.parts or has_control_characters:
            raise FungiError(
                f"the archive {archive} was refused: its member {name!r} has an invalid name. {_SOURCE_ADVICE}"
            )
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
            raise FungiError(
                f"the archive {archive} was refused: its member {name!r} would be written outside of the folder."
                f" {_SOURCE_ADVICE}"
            )
        if below and not path.is_relative_to(below):
            continue
        inner_path = path.relative_to(below) if below else path
        target = into / (inner_path if inner_path.parts else path.name)
        remaining_bytes -= max(SMALLEST_MEMBER, size)
        if remaining_bytes < 0:
            raise FungiError(
                f"the archive {archive} was refused: it expands to more than {LARGEST_EXPANSION} times its size, like "
                f"an archive bomb (stopped at {name!r}). Download it again from its official source."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        content = open_member()
        assert content is not None  # it is None only for a directory, and members are files
        with content, target.open("wb") as file:
            shutil.copyfileobj(content, file)
        count += 1
    return count


def _flatten(folder: Path, name: str) -> None:
    """Move the content of `folder/name` to `folder`, if `folder` contains nothing but the folder `name`."""
    inner = folder / name
    renamed_inner = folder / f".{name}"  # the inner folder may contain a file or folder that is also called `name`
    if name and inner.is_dir() and [entry.name for entry in folder.iterdir()] == [name]:
        inner.rename(renamed_inner)
        for entry in renamed_inner.iterdir():
            entry.rename(folder / entry.name)
        renamed_inner.rmdir()
