"""Progress of the elements of a job. Files show which elements are done, and SLURM's queue shows which wait or run."""

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
from fungi.grid.elements import Element, GridCall, elements_of, places_of
from fungi.grid.queue import ACTIVE, PENDING, Queue, call_mark
from fungi.grid.records import ENDED, INTERRUPTED, RUNNING, Attempt, Records, same_folder
from fungi.store.blocks import MANIFEST, BlockFolder
from fungi.store.layout import Layout
from fungi.store.shard import Shard

DONE, QUEUED, FAILED, MISSING = "done", "queued", "failed", "missing"
STATES = (DONE, RUNNING, QUEUED, FAILED, MISSING)
TO_SUBMIT = (FAILED, MISSING)
"""States of elements that have to be submitted again."""
MAX_LOGS_READ = 500
"""Largest number of logs of failed attempts that are read per job. Thousands of failures have only a few reasons."""
_THIS_HOST = socket.gethostname()


@dataclass(frozen=True)
class Progress:
    """State of an element.

    index: index of the element in the job. state: one of `STATES`.
    detail: number of finished blocks, or the reason of a failure.
    job: id of the queued or running job of the element. waits: whether this job has not begun.
    log: log file of a failed attempt.
    blocked_job: id of a queued job that will never run, because it waits for an element that failed.
    """

    index: int
    element: Element
    state: str
    detail: str = ""
    job: str = ""
    waits: bool = False
    log: str = ""
    blocked_job: str = ""


@dataclass(frozen=True, eq=False)
class ExpectedFiles:
    """The files that an element has to write, and the settings that produce the files.

    Two objects of this class are equal only if they are the same object. Objects are keys of dictionaries.

    paths: for a shard, the files of the split; for a report, the results that it shows.
    settings: the method `difference(path)` names a setting that is different in an existing file, if there is one.
    """

    paths: list[Path]
    settings: Any = None


def pack_of(grid: Grid, call: GridCall) -> int:
    """Return the number of elements per task of an array."""
    return grid.pack if call.stage == "extraction" else 1


def shape_of(grid: Grid, call: GridCall, *, first: int = 0, slot: int | None = None) -> ArrayShape:
    """Return the shape of an array of this call."""
    return ArrayShape(first, pack_of(grid, call), slot)


def progress_of(
    grid: Grid,
    call: GridCall,
    expected: Mapping[Element, ExpectedFiles],
    queue: Queue,
    elements: Sequence[Element] | None = None,
    places: Sequence[Place] | None = None,
) -> list[Progress]:
    """Return the state of every element.

    expected: files of each element.
    elements, places: the elements of the call and their places; they are computed if the caller does not pass them.
    """
    elements = elements_of(grid, call) if elements is None else elements
    places = places_of(grid, elements) if places is None else places
    attempts, mark, splits = Records(grid.root, call).read_all(elements), call_mark(grid, call), _Splits(grid)
    root, progress = grid.root.absolute(), []
    for index, (element, place) in enumerate(zip(elements, places, strict=True)):
        attempt = attempts.get(element)
        if attempt and attempt.root and attempt.root != str(root) and not same_folder(Path(attempt.root), root):
            attempt = None  # the record was copied with another root
        state, detail = _state(grid, call, element, expected[element], attempt, queue, splits)
        if state == DONE and call.stage != "report" and (difference := splits.difference(expected[element])):
            state, detail = MISSING, difference
        job = attempt.job if attempt and state in (RUNNING, QUEUED) else ""
        if state in TO_SUBMIT and (queued_job := queue.job_of(mark, index, place)):
            state, detail, job = QUEUED, f"job {queued_job}", queued_job
        log = attempt.log if attempt and state == FAILED else ""
        progress.append(Progress(index, element, state, detail, job, queue.states.get(job) == PENDING, log))
    return progress


def _state(
    grid: Grid,
    call: GridCall,
    element: Element,
    expected: ExpectedFiles,
    attempt: Attempt | None,
    queue: Queue,
    splits: "_Splits",
) -> tuple[str, str]:
    """Return the state and detail of an element.

    expected: the files that the element has to write. attempt: the last attempt; None if there was none. splits: the
    existing files and blocks of all splits.
    """
    succeeded = attempt is not None and attempt.state == ENDED and attempt.status == 0
    finished_blocks = ""
    if call.stage == "report":
        if succeeded and attempt is not None:
            return _report_state(grid.root / "report", expected.paths, attempt.started)
    elif element.shard:
        missing, finished = splits.blocks(expected, element.shard)
        if missing == 0:
            return DONE, "" if splits.is_assembled(expected) else "not merged yet"
        finished_blocks = f"{counted(finished, 'block')} done" if finished else ""
    elif all(map(os.path.exists, expected.paths)) and (
        succeeded or (attempt is None and _are_complete(expected.paths))
    ):
        return DONE, ""
    if attempt is None or succeeded:
        return MISSING, finished_blocks
    if attempt.state == RUNNING and _still_runs(attempt, queue):
        job_text = f"job {attempt.job} on {attempt.host}" if attempt.job else ""
        return RUNNING, ", ".join(filter(None, (finished_blocks, job_text)))
    if attempt.state == INTERRUPTED and attempt.job in queue.states:
        return QUEUED, f"job {attempt.job}, will continue"
    return FAILED, _failure_reason(attempt, read_log=splits.may_read_a_log())


@dataclass
class _Splits:
    """Existing files and blocks of each split, read once for all shards of the split.

    differences: file -> text about a setting of the file that differs from the grid; empty without a difference.
    logs_read: number of logs that were requested.
    """

    grid: Grid
    differences: dict[Path, str] = field(default_factory=dict)
    logs_read: int = 0
    _unfinished: dict[ExpectedFiles, list[tuple[int, set[int]] | None]] = field(default_factory=dict)

    def may_read_a_log(self) -> bool:
        """Return whether another log may be read, and count it: only the first MAX_LOGS_READ are read."""
        self.logs_read += 1
        return self.logs_read <= MAX_LOGS_READ

    def difference(self, expected: ExpectedFiles) -> str:
        """Return how an existing file differs from the settings of the grid; empty if no file differs."""
        for path in expected.paths if expected.settings is not None else ():
            if path not in self.differences:
                self.differences[path] = expected.settings.difference(path) if path.exists() else ""
        return next(filter(None, map(self.differences.get, expected.paths)), "")

    def is_assembled(self, expected: ExpectedFiles) -> bool:
        """Return whether all files of the split exist."""
        return not self._unfinished_files(expected)

    def blocks(self, expected: ExpectedFiles, shard: Shard) -> tuple[int | None, int]:
        """Return the numbers of missing and finished blocks of a shard.

        The number of missing blocks is None if a file has no blocks yet.
        """
        missing, finished, all_files_have_blocks = 0, 0, True
        for blocks in self._unfinished_files(expected):
            if blocks is None:
                all_files_have_blocks = False
                continue
            count, missing_in_file = blocks
            indices_of_shard = range(shard.index - 1, count, shard.count)
            missing_in_shard = sum(index in missing_in_file for index in indices_of_shard)
            missing += missing_in_shard
            finished += len(indices_of_shard) - missing_in_shard
        return missing if all_files_have_blocks else None, finished

    def _unfinished_files(self, expected: ExpectedFiles) -> list[tuple[int, set[int]] | None]:
        """Return (number of blocks, missing blocks) of each missing file; None for a file without blocks."""
        if expected not in self._unfinished:
            # `Path.exists` would be slow for thousands of files.
            absent = [path for path in expected.paths if not os.path.exists(path)]  # noqa: PTH110
            self._unfinished[expected] = [_blocks_of(self.grid, path, expected.settings) for path in absent]
        return self._unfinished[expected]


def _blocks_of(grid: Grid, path: Path, settings: Any) -> tuple[int, set[int]] | None:
    """Return (number of blocks, missing blocks) of a file; None if there are no blocks with these settings."""
    parent = Layout(grid.root).blocks(path, "any").parent
    if not parent.is_dir():
        return None
    for manifest in sorted(parent.glob(f"*/{MANIFEST}"), key=_modified, reverse=True):
        try:
            blocks = BlockFolder.open(manifest.parent)
        except (FileNotFoundError, FungiError):  # the blocks were just assembled, or they are damaged
            continue
        if settings is not None and settings.difference_from(blocks.manifest.provenance):
            continue
        return len(blocks.manifest.spans()), {span.index for span in blocks.missing()}
    return None


def _modified(path: Path) -> float:
    """Return the time of the last change, in seconds since 1970; 0 for a file that does not exist."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _report_state(folder: Path, results: Sequence[Path], started: float) -> tuple[str, str]:
    """Return the state and detail of a report that was written without errors: missing if outdated, otherwise done.

    A report is outdated if a result is newer, or if a result exists that the report lists as missing. (The second case
    covers copied results, which keep their old time.)
    """
    if not any((folder / f"report.{ending}").exists() for ending in ("html", "md", "csv", "tex")):
        return MISSING, ""
    present = [path for path in results if path.exists()]
    newer = sum(_modified(path) > started for path in present)
    if newer:
        return MISSING, f"{counted(newer, 'result')} newer than the report"
    try:
        lines = set((folder / "report.md").read_text(errors="replace").splitlines())
    except OSError:
        lines = set()
    absent = sum(f"- {path}" in lines for path in present)
    return (MISSING, f"the report does not contain {counted(absent, 'new result')}") if absent else (DONE, "")


def _are_complete(outputs: list[Path]) -> bool:
    """Return whether existing result files are complete. (Commands also save incomplete files.)"""
    try:
        results = [json.loads(path.read_text(encoding="utf-8")) for path in outputs if path.suffix == ".json"]
        return bool(outputs) and all(result.get("complete") for result in results)
    except (OSError, ValueError, AttributeError):
        return False


def _still_runs(attempt: Attempt, queue: Queue) -> bool:
    """Return whether an attempt still runs, according to the queue or to the processes of this machine.

    An attempt without a job id on another machine counts as running, because its process can't be seen from here.
    """
    if attempt.job:
        return not queue.is_known or queue.states.get(attempt.job) in ACTIVE
    if attempt.host != _THIS_HOST:
        return True
    try:
        os.kill(attempt.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process exists and belongs to another user
        pass
    return True


def _failure_reason(attempt: Attempt, *, read_log: bool) -> str:
    """Return a text with the last line of the log and the way in which the attempt ended."""
    ends = {RUNNING: "ended without a message: killed, or its node failed", INTERRUPTED: "interrupted"}
    end = ends.get(attempt.state, f"status {attempt.status}")
    lines = _last_lines(Path(attempt.log)) if attempt.log and read_log else []
    last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "; ".join(filter(None, (last_line, f"{end} ({attempt.log or 'no log file'})")))


def _last_lines(path: Path, length: int = 4096) -> list[str]:
    """Return the lines in the last `length` bytes of a log; an empty list if the log can't be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - length))
            return file.read().decode(errors="replace").split("\n")
    except OSError:
        return []
