"""Names of temporary files that encode machine and process, so that orphans can be recognised.

An orphan is a temporary file whose process does not exist any more; it may be removed. Processes on another machine
or in another container can't be seen. Their files count as orphans after a day without changes, because no write takes
that long.
"""

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SECONDS_WITHOUT_CHANGES = 24 * 3600
"""Time without changes after which a file counts as an orphan if its process can't be seen."""

_UNFINISHED = re.compile(r"\..+\.partial-(?:(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-)?[^-]+")
_REMOVED = re.compile(r"\..+\.removed-[^-]+")


def unfinished_name(path: Path) -> Path:
    """Return a new path in the folder of `path`; its name encodes the machine and process that write there."""
    pid = os.getpid()
    return path.with_name(f".{path.name}.partial-{_machine()}-{pid}-{_start_of(pid)}-{uuid.uuid4().hex[:8]}")


def removed_name(path: Path) -> Path:
    """Return a new name for `path`, so that it can be renamed before its removal. Files with such names are orphans."""
    return path.with_name(f".{path.name}.removed-{uuid.uuid4().hex[:12]}")


def find_orphans(folder: Path) -> Iterator[Path]:
    """Yield the entries of a folder that are orphans: unfinished or partly removed files and folders."""
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith(".") and _is_orphan(entry):
            yield entry


def remove_orphans(folder: Path) -> None:
    """Remove the orphans in a folder, but not in its subfolders. Other processes may do this at the same time."""
    for entry in find_orphans(folder):
        discard(entry)


def remove_orphans_below(folder: Path) -> None:
    """Remove the orphans of a folder and of all folders below it."""
    for subfolder, _, _ in os.walk(folder):
        remove_orphans(Path(subfolder))


def discard(path: Path) -> None:
    """Remove a file or a folder; do nothing if it does not exist or if the process has no permission to remove it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def _is_orphan(entry: Path) -> bool:
    """Return whether an entry of a folder was partly removed, or whether the process that wrote it has ended."""
    if _REMOVED.fullmatch(entry.name):
        return True
    match = _UNFINISHED.fullmatch(entry.name)
    if match is None:
        return False
    if match["machine"] == _machine() and _start_of(os.getpid()):  # the process can be seen
        return _start_of(int(match["pid"])) != int(match["start"])
    try:
        return time.time() - entry.stat().st_mtime > SECONDS_WITHOUT_CHANGES
    except FileNotFoundError:
        return False


@cache
def _machine() -> str:
    """Return eight hexadecimal digits that identify the machine, its last start and the container."""
    parts = [os.uname().nodename]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:  # not Linux: `_start_of` returns 0, and orphans are recognised by their age
        pass
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]


def _start_of(pid: int) -> int:
    """Return the start time of a process, in ticks since the start of the machine; 0 if there is no such process.

    The system reuses pids, but pid and start time together identify a process.
    """
    try:
        fields_after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields_after_name[19])  # `starttime` (man proc_pid_stat)
