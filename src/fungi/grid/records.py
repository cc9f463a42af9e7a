"""Records of the last attempt at each element: one small file per element, written when an attempt starts and ends.

Records only explain the progress to people. An element is done if its feature or result files exist.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fungi.grid.elements import Element, GridCall
from fungi.runtime.files import write_text_atomically

RUNNING, ENDED, INTERRUPTED = "running", "ended", "interrupted"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The last attempt at an element.

    state: `running`, `ended` or `interrupted`. status: exit status; None while the attempt runs.
    job: `<array job>_<index>` or a plain job id; empty outside of SLURM.
    pid: process id on `host`. log: file of the output. root: path of the root at the time of the attempt.
    restarts: how often SLURM has started the job again.
    started, ended: times in seconds since 1970.
    """

    state: str = RUNNING
    status: int | None = None
    job: str = ""
    host: str = ""
    pid: int = 0
    log: str = ""
    root: str = ""
    restarts: int = 0
    started: float = 0.0
    ended: float | None = None

    @classmethod
    def begin(cls, environ: Mapping[str, str], root: Path) -> "Attempt":
        """Return the record of an attempt that this process begins now."""
        array, index = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
        return cls(
            job=f"{array}_{index}" if array else environ.get("SLURM_JOB_ID", ""),
            host=environ.get("SLURMD_NODENAME") or socket.gethostname(),
            pid=os.getpid(),
            log=_output_file(),
            root=str(root.absolute()),
            restarts=int(environ.get("SLURM_RESTART_COUNT", "0")),
            started=time.time(),
        )

    def finished(self, status: int, *, interrupted: bool = False) -> "Attempt":
        """Return the record of the same attempt after its end."""
        return replace(self, state=INTERRUPTED if interrupted else ENDED, status=status, ended=time.time())


class Records:
    """The records of one call below a root."""

    def __init__(self, root: Path, call: GridCall) -> None:
        self._folder = root / "progress" / call.key

    def write(self, element: Element, attempt: Attempt) -> None:
        """Write the record of an attempt; it replaces the record of the previous attempt."""
        write_text_atomically(self._path(element), json.dumps(asdict(attempt), indent=1))

    def read(self, element: Element) -> Attempt | None:
        """Return the last attempt at an element; None if there was none, or if its record is damaged."""
        return _attempt_of(str(self._path(element)))

    def read_all(self, elements: Iterable[Element]) -> dict[Element, Attempt]:
        """Return the last attempts at the elements; elements without an attempt are left out.

        The folder is listed once, and paths are strings: `Path` would be slow for tens of thousands of records.
        """
        folder = str(self._folder)
        try:
            with os.scandir(folder) as entries:
                names = {entry.name for entry in entries}
        except OSError:
            return {}
        files = ((element, f"{element.key}.json") for element in elements) if names else ()
        attempts = ((element, _attempt_of(f"{folder}/{file}")) for element, file in files if file in names)
        return {element: attempt for element, attempt in attempts if attempt is not None}

    def has_attempts(self) -> bool:
        """Return whether any element of the call was ever started."""
        return self._folder.is_dir()

    def _path(self, element: Element) -> Path:
        return self._folder / f"{element.key}.json"


def _attempt_of(path: str) -> Attempt | None:
    """Return the attempt in a file; None if the file does not exist or is damaged."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # `Path.open` would be slow
            return Attempt(**json.loads(file.read().decode()))
    except (OSError, ValueError, TypeError):
        return None


def same_folder(first: Path, second: Path) -> bool:
    """Return whether two paths mean the same folder. If a folder does not exist, the paths themselves are compared."""
    return first == second or (first.exists() and second.exists() and first.samefile(second))


def _output_file() -> str:
    """Return the path of the file that receives standard error; empty for a terminal or a pipe."""
    try:
        target = Path(f"/proc/self/fd/{sys.__stderr__.fileno() if sys.__stderr__ else 2}").readlink()
    except OSError:
        return ""
    return str(target) if target.is_file() else ""
