"""What happened to each element: one small file per element, written when it starts and when it ends.

They tell people what is going on. Nothing is decided by them: what is done is seen from the feature and result files.
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
from fungi.runtime.files import write_whole

RUNNING, ENDED, INTERRUPTED = "running", "ended", "interrupted"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The last attempt at an element.

    job: `<array job>_<index>` or a plain job id; empty outside of SLURM. pid: on `host`. log: file of the output.
    root: what the folder of the grid was called then.
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
        """Return the attempt that this process begins now below a root."""
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
        """Return the same attempt after its end."""
        return replace(self, state=INTERRUPTED if interrupted else ENDED, status=status, ended=time.time())


class Records:
    """The records of one job below a root folder."""

    def __init__(self, root: Path, call: GridCall) -> None:
        self._folder = root / "progress" / call.key

    def write(self, element: Element, attempt: Attempt) -> None:
        """Write an attempt down; the last one counts."""
        write_whole(self._path(element), json.dumps(asdict(attempt), indent=1))

    def read(self, element: Element) -> Attempt | None:
        """Return the last attempt at an element, if there was one."""
        return _attempt_of(self._path(element))

    def read_all(self, elements: Iterable[Element]) -> dict[Element, Attempt]:
        """Return the last attempts at those elements that have one: the folder is listed once."""
        try:
            paths = {path.name: path for path in self._folder.iterdir()}
        except OSError:
            return {}
        named = ((element, paths.get(f"{element.key}.json")) for element in elements) if paths else ()
        attempts = ((element, _attempt_of(path)) for element, path in named if path is not None)
        return {element: attempt for element, attempt in attempts if attempt is not None}

    def any(self) -> bool:
        """Return whether anything of this job was ever started."""
        return self._folder.is_dir()

    def _path(self, element: Element) -> Path:
        return self._folder / f"{element.key}.json"


def _attempt_of(path: Path) -> Attempt | None:
    try:
        return Attempt(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):  # none, or damaged: nothing is decided by it
        return None


def same_folder(one: Path, other: Path) -> bool:
    """Return whether two names lead to one folder; a folder that is gone is the same by its name alone."""
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def _output_file() -> str:
    """The file that standard error goes to; empty for a terminal or a pipe."""
    try:
        target = Path(f"/proc/self/fd/{sys.__stderr__.fileno() if sys.__stderr__ else 2}").readlink()
    except OSError:
        return ""
    return str(target) if target.is_file() else ""
