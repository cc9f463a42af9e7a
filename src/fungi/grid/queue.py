"""SLURM's queue. The comments of the arrays show which elements of the grid wait or run."""

import hashlib
import subprocess
from collections.abc import Iterable

from fungi.grid.array import ONE_ELEMENT_PER_TASK, ArrayShape, Place
from fungi.grid.declaration import Grid
from fungi.grid.elements import GridCall
from fungi.runtime.log import logger

PENDING = "PENDING"
ACTIVE = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")
"""States of a job that has begun and has not ended."""


class Queue:
    """The jobs of this user in SLURM's queue.

    is_known: False if squeue is not installed or failed.
    failure: reason why squeue failed; empty if squeue did not fail.
    states: `<array job>_<index>` or job id -> state.

    `fungi submit` gives each array a comment (`comment_of`), because the name of a job does not show its root.
    """

    def __init__(self, lines: Iterable[str] | None = None, failure: str = "") -> None:
        self.is_known = lines is not None
        self.failure = failure
        self.states: dict[str, str] = {}
        self._by_index: dict[tuple[str, int], str] = {}
        self._by_place: dict[tuple[str, Place], str] = {}
        for job, state, comment in (line.split()[:3] for line in lines or () if len(line.split()) > 2):
            self.states[job] = state
            mark, _, shape = comment.rpartition(":")
            task = job.partition("_")[2]
            if task.isdecimal() and (array_shape := ArrayShape.parse(shape)):
                self._add(mark, array_shape, int(task), job)

    def _add(self, mark: str, shape: ArrayShape, task: int, job: str) -> None:
        """Record the id of a job for each element of a task."""
        if shape.slot is None:
            self._by_index |= {(mark, index): job for index in shape.elements(task)}
        else:
            self._by_place |= {(mark, Place(shape.first + task, position)): job for position in shape.elements(task)}

    def job_of(self, mark: str, index: int, place: Place) -> str:
        """Return the id of the queued or running job of an element, or an empty text.

        mark: `call_mark` of the call to which the element belongs. index, place: index and place of the element in the
        job; an array with a slot is found by the place, any other array by the index.
        """
        return self._by_index.get((mark, index)) or self._by_place.get((mark, place), "")

    @classmethod
    def ask(cls) -> "Queue":
        """Return the queue that squeue prints. Warn if squeue fails: a failure must not look like an empty queue."""
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T %k"]
        try:
            process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=True)
        except FileNotFoundError:
            return cls()
        except (OSError, subprocess.SubprocessError) as error:
            stderr = getattr(error, "stderr", "")
            message = stderr.strip() if isinstance(stderr, str) and stderr.strip() else str(error)
            failure = f"squeue failed ({message.splitlines()[-1]}), so that waiting and running jobs are not known."
            logger.warning(failure)
            return cls(failure=failure)
        return cls(process.stdout.splitlines())


def comment_of(grid: Grid, call: GridCall, shape: ArrayShape = ONE_ELEMENT_PER_TASK) -> str:
    """Return the comment of an array, which identifies its call, its root and its shape."""
    return f"{call_mark(grid, call)}:{shape}"


def call_mark(grid: Grid, call: GridCall) -> str:
    """Return the beginning of the comments of all arrays of a call below a root."""
    return f"fungi:{call.key}:{hashlib.sha256(str(grid.root.absolute()).encode()).hexdigest()[:8]}"
