"""Progress of the elements of a job. Files decide what is done; SLURM's queue adds which elements wait or run."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fungi.errors import FungiError, counted
from fungi.grid.array import ArrayShape, Place
from fungi.grid.declaration import Grid
from fungi.grid.elements import Element, GridCall, elements, places
from fungi.grid.queue import ACTIVE, PENDING, Queue, call_mark
from fungi.grid.records import ENDED, INTERRUPTED, RUNNING, Attempt, Records, same_folder
from fungi.store.blocks import MANIFEST, BlockFolder
from fungi.store.layout import Layout
from fungi.store.shard import Shard

DONE, QUEUED, FAILED, MISSING = "done", "queued", "failed", "missing"
STATES = (DONE, RUNNING, QUEUED, FAILED, MISSING)
LEFT = (FAILED, MISSING)
"""States of elements that have to be submitted again."""
LOGS_READ = 500
"""Number of logs of failed attempts that are read for each job: thousands of elements fail for a few reasons."""
_HERE = socket.gethostname()


@dataclass(frozen=True)
class Progress:
    """State of an element.

    detail: number of finished blocks, or the reason of a failure.
    job: id of the job that waits or runs for the element. waits: whether that job has not begun.
    log: log file of a failed attempt.
    doomed: id of a queued job that will never run, because it waits for an element that failed.
    """

    index: int
    element: Element
    state: str
    detail: str = ""
    job: str = ""
    waits: bool = False
    log: str = ""
    doomed: str = ""


@dataclass(frozen=True, eq=False)
class Expected:
    """The files that an element has to write, and the settings that produce them. Compared by identity.

    paths: for a shard, the files of the whole split; for a report, the results that it shows.
    settings: `settings.difference(path)` names the setting in which an existing file differs; empty for none.
    """

    paths: list[Path]
    settings: Any = None


def pack_of(grid: Grid, call: GridCall) -> int:
    """Return how many elements share a task of an array."""
    return grid.pack if call.stage == "extraction" else 1


def shape_of(grid: Grid, call: GridCall, *, first: int = 0, slot: int | None = None) -> ArrayShape:
    """Return the shape of an array of this call."""
    return ArrayShape(first, pack_of(grid, call), slot)


def progress_of(
    grid: Grid,
    call: GridCall,
    expected: Mapping[Element, Expected],
    queue: Queue,
    points: Sequence[Element] | None = None,
    numbered: Sequence[Place] | None = None,
) -> list[Progress]:
    """Return the state of every element.

    expected: files of each element. points, numbered: the elements of the call and their places, if the caller has them
    already.
    """
    points = elements(grid, call) if points is None else points
    numbered = places(grid, points) if numbered is None else numbered
    attempts, mark, splits = Records(grid.root, call).read_all(points), call_mark(grid, call), _Splits(grid)
    root, shown = grid.root.absolute(), []
    for index, (element, place) in enumerate(zip(points, numbered, strict=True)):
        attempt = attempts.get(element)
        if attempt and attempt.root and attempt.root != str(root) and not same_folder(Path(attempt.root), root):
            attempt = None  # the record was copied with another root
        state, detail = _state(grid, call, element, expected[element], attempt, queue, splits)
        if state == DONE and call.stage != "report" and (other := splits.difference(expected[element])):
            state, detail = MISSING, other
        job = attempt.job if attempt and state in (RUNNING, QUEUED) else ""
        if state in LEFT and (in_queue := queue.job_of(mark, index, place)):
            state, detail, job = QUEUED, f"job {in_queue}", in_queue
        log = attempt.log if attempt and state == FAILED else ""
        shown.append(Progress(index, element, state, detail, job, queue.states.get(job) == PENDING, log))
    return shown


def _state(
    grid: Grid,
    call: GridCall,
    element: Element,
    expected: Expected,
    attempt: Attempt | None,
    queue: Queue,
    splits: "_Splits",
) -> tuple[str, str]:
    ended_well = attempt is not None and attempt.state == ENDED and attempt.status == 0
    so_far = ""
    if call.stage == "report":
        if ended_well and attempt is not None:
            return _report_state(grid.root / "report", expected.paths, attempt.started)
    elif element.shard:
        left, done = splits.blocks(expected, element.shard)
        if left == 0:
            return DONE, "" if splits.is_assembled(expected) else "merge is left"
        so_far = f"{counted(done, 'block')} done" if done else ""
    elif all(map(os.path.exists, expected.paths)) and (
        ended_well or (attempt is None and _are_complete(expected.paths))
    ):
        return DONE, ""
    if attempt is None or ended_well:
        return MISSING, so_far
    if attempt.state == RUNNING and _still_runs(attempt, queue):
        return RUNNING, ", ".join(filter(None, (so_far, f"job {attempt.job} on {attempt.host}" if attempt.job else "")))
    if attempt.state == INTERRUPTED and attempt.job in queue.states:
        return QUEUED, f"job {attempt.job}, to go on"
    return FAILED, _why(attempt, splits.may_read_a_log())


@dataclass
class _Splits:
    """Existing files and blocks of each split of features, read once for all shards of the split.

    differences: file -> the setting in which it differs from the settings of the grid; empty for none.
    logs: number of logs read so far.
    """

    grid: Grid
    differences: dict[Path, str] = field(default_factory=dict)
    logs: int = 0
    _unfinished: dict[Expected, list[tuple[int, set[int]] | None]] = field(default_factory=dict)

    def may_read_a_log(self) -> bool:
        """Return whether another log may be read, and count it: only the first LOGS_READ are read."""
        self.logs += 1
        return self.logs <= LOGS_READ

    def difference(self, expected: Expected) -> str:
        """Return how one of the existing files differs from the settings of the grid; empty for no difference."""
        for path in expected.paths if expected.settings is not None else ():
            if path not in self.differences:
                self.differences[path] = expected.settings.difference(path) if path.exists() else ""
        return next(filter(None, map(self.differences.get, expected.paths)), "")

    def is_assembled(self, expected: Expected) -> bool:
        """Return whether all files of the split exist."""
        return not self._of(expected)

    def blocks(self, expected: Expected, shard: Shard) -> tuple[int | None, int]:
        """Return the numbers of missing blocks (None if some file was never begun) and finished blocks of a shard."""
        left, done, begun = 0, 0, True
        for unfinished in self._of(expected):
            if unfinished is None:
                begun = False
                continue
            count, missing = unfinished
            of_shard = range(shard.index - 1, count, shard.count)
            left_here = sum(index in missing for index in of_shard)
            left, done = left + left_here, done + len(of_shard) - left_here
        return left if begun else None, done

    def _of(self, expected: Expected) -> list[tuple[int, set[int]] | None]:
        """Return the number of blocks and the missing ones of each file that does not exist; None if not begun."""
        if expected not in self._unfinished:
            # `Path.exists` would be slow for thousands of files.
            absent = [path for path in expected.paths if not os.path.exists(path)]  # noqa: PTH110
            self._unfinished[expected] = [_blocks_of(self.grid, path, expected.settings) for path in absent]
        return self._unfinished[expected]


def _blocks_of(grid: Grid, path: Path, settings: Any) -> tuple[int, set[int]] | None:
    """Return the number of blocks of a file and the missing ones; None if nothing was begun with these settings."""
    parent = Layout(grid.root).blocks(path, "any").parent
    if not parent.is_dir():
        return None
    for manifest in sorted(parent.glob(f"*/{MANIFEST}"), key=_modified, reverse=True):
        try:
            blocks = BlockFolder.open(manifest.parent)
        except (FileNotFoundError, FungiError):  # just assembled, or damaged: other files are not affected
            continue
        if settings is not None and settings.differs_from(blocks.manifest.provenance):
            continue
        return len(blocks.manifest.spans()), {span.index for span in blocks.missing()}
    return None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _report_state(folder: Path, results: Sequence[Path], started: float) -> tuple[str, str]:
    """Return the state and detail of a report that was written without errors: done, or missing if it is outdated.

    It is outdated if a result is newer, or if it lists a result as missing that exists now (a copied result keeps its
    old time).
    """
    if not any((folder / f"report.{ending}").exists() for ending in ("html", "md", "csv", "tex")):
        return MISSING, ""
    present = [path for path in results if path.exists()]
    newer = sum(_modified(path) > started for path in present)
    if newer:
        return MISSING, f"{counted(newer, 'result')} newer than the report"
    try:
        listed = set((folder / "report.md").read_text(errors="replace").splitlines())
    except OSError:
        listed = set()
    late = sum(f"- {path}" in listed for path in present)
    return (MISSING, f"the report does not hold {counted(late, 'result')}, written since") if late else (DONE, "")


def _are_complete(outputs: list[Path]) -> bool:
    """Return whether existing result files are complete: they are saved after every combination."""
    try:
        results = [json.loads(path.read_text(encoding="utf-8")) for path in outputs if path.suffix == ".json"]
        return bool(outputs) and all(result.get("complete") for result in results)
    except (OSError, ValueError, AttributeError):
        return False


def _still_runs(attempt: Attempt, queue: Queue) -> bool:
    """Return whether an attempt still runs, by the queue or by the processes of this machine.

    If neither knows the attempt, it counts as running.
    """
    if attempt.job:
        return not queue.known or queue.states.get(attempt.job) in ACTIVE
    if attempt.host != _HERE:
        return True
    try:
        os.kill(attempt.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process exists and belongs to another user
        pass
    return True


def _why(attempt: Attempt, read_log: bool) -> str:
    """Return the last line of the log and the way in which the attempt ended."""
    end = {RUNNING: "ended without a message: killed, or its node failed", INTERRUPTED: "interrupted"}
    how = end.get(attempt.state, f"status {attempt.status}")
    lines = _last_lines(Path(attempt.log)) if attempt.log and read_log else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "; ".join(filter(None, (last, f"{how} ({attempt.log or 'no log file'})")))


def _last_lines(path: Path, length: int = 4096) -> list[str]:
    """Return the lines in the last `length` bytes of a log; none if it can't be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - length))
            return file.read().decode(errors="replace").split("\n")
    except OSError:
        return []
