"""SLURM's queue: which elements of the grid wait or run, told from the comments of their arrays."""

import hashlib
import subprocess
from collections.abc import Iterable

from fungi.grid.array import WHOLE_ARRAY, ArrayShape, Place
from fungi.grid.declaration import Grid
from fungi.grid.elements import GridCall
from fungi.runtime.log import logger

PENDING = "PENDING"
ACTIVE = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")
"""States of a job that has begun and not ended."""


class Queue:
    """The jobs of this user that SLURM's queue holds. `known` is False where there is no SLURM to ask.

    states: `<array job>_<index>` or job id -> state. Arrays are recognised by the comment that the submitter gives them
    (`comment_of`): the name of a job does not tell its root. failure: why squeue did not answer, though it is there.
    """

    def __init__(self, lines: Iterable[str] | None = None, failure: str = "") -> None:
        self.known = lines is not None
        self.failure = failure
        self.states: dict[str, str] = {}
        self._by_index: dict[tuple[str, int], str] = {}
        self._by_place: dict[tuple[str, Place], str] = {}
        for job, state, comment in (line.split()[:3] for line in lines or () if len(line.split()) > 2):
            self.states[job] = state
            mark, _, shape = comment.rpartition(":")
            task = job.partition("_")[2]
            if task.isdecimal() and (shaped := ArrayShape.parse(shape)):
                self._add(mark, shaped, int(task), job)

    def _add(self, mark: str, shape: ArrayShape, task: int, job: str) -> None:
        if shape.slot is None:
            self._by_index |= {(mark, index): job for index in shape.elements(task)}
        else:
            self._by_place |= {(mark, Place(shape.first + task, position)): job for position in shape.elements(task)}

    def job_of(self, mark: str, index: int, place: Place) -> str:
        """Return the job that waits or runs for an element of a call (`call_mark`); an empty text for none."""
        return self._by_index.get((mark, index)) or self._by_place.get((mark, place), "")

    @classmethod
    def ask(cls) -> "Queue":
        """Return the queue as squeue shows it; warn if squeue fails, since an empty queue looks the same."""
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T %k"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=True)
        except FileNotFoundError:
            return cls()
        except (OSError, subprocess.SubprocessError) as error:
            words = getattr(error, "stderr", "")
            message = words.strip() if isinstance(words, str) and words.strip() else str(error)
            failure = f"squeue failed ({message.splitlines()[-1]}): which jobs wait or run is not known."
            logger.warning(failure)
            return cls(failure=failure)
        return cls(done.stdout.splitlines())


def comment_of(grid: Grid, call: GridCall, shape: ArrayShape = WHOLE_ARRAY) -> str:
    """Return the comment of an array: the call, the root and the shape of the array."""
    return f"{call_mark(grid, call)}:{shape}"


def call_mark(grid: Grid, call: GridCall) -> str:
    """Return what the comments of all arrays of a call below one root begin with."""
    return f"fungi:{call.key}:{hashlib.sha256(str(grid.root.absolute()).encode()).hexdigest()[:8]}"
