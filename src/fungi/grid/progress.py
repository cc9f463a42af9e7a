"""How far the elements of a job are, read from files alone; the queue of SLURM is asked only what still runs."""

import hashlib
import json
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fungi.grid.array import MAX_ARRAY
from fungi.grid.declaration import Grid
from fungi.grid.elements import Element, Work, elements
from fungi.grid.records import ENDED, INTERRUPTED, RUNNING, Attempt, Records
from fungi.store.blocks import MANIFEST, BlockFolder
from fungi.store.layout import Layout
from fungi.store.shard import Shard

DONE, QUEUED, FAILED, MISSING = "done", "queued", "failed", "missing"
STATES = (DONE, RUNNING, QUEUED, FAILED, MISSING)
LEFT = (FAILED, MISSING)
"""States of elements that have to be submitted again."""
_HERE = socket.gethostname()


@dataclass(frozen=True)
class Progress:
    """State of one element, a word about it (blocks done so far, why it failed), and the job that has it in hand."""

    index: int
    element: Element
    state: str
    detail: str = ""
    job: str = ""


class Queue:
    """What SLURM's queue holds of this user's jobs. `known` is False where there is no SLURM to ask.

    states: `<array job>_<index>` or job id -> state. comments: the comment of an array, and an index -> job. Arrays
    are told apart by the comment that the submitter gives them (`comment_of`): a job's name says nothing of its root.
    """

    def __init__(self, lines: Iterable[str] | None = None) -> None:
        self.known = lines is not None
        self.states: dict[str, str] = {}
        self.comments: dict[tuple[str, int], str] = {}
        for job, state, comment in (line.split()[:3] for line in lines or () if len(line.split()) > 2):
            self.states[job] = state
            index = job.partition("_")[2]
            if index.isdecimal():
                self.comments[comment, int(index)] = job

    @classmethod
    def ask(cls) -> "Queue":
        """The queue as squeue tells it."""
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T %k"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            return cls()
        return cls(done.stdout.splitlines())

    def state(self, job: str) -> str:
        """The state of a job; empty where it is not in the queue."""
        return self.states.get(job, "")


def comment_of(grid: Grid, work: Work, first: int = 0) -> str:
    """What the arrays of a job below one root have as their comment. first: element of index 0."""
    return f"fungi:{work.key}:{hashlib.sha256(str(grid.root.absolute()).encode()).hexdigest()[:8]}:{first}"


def progress_of(grid: Grid, work: Work, outputs: Mapping[Element, list[Path]], queue: Queue) -> list[Progress]:
    """The state of every element.

    outputs: the files of an element (of an extraction: the whole split's) that show it to be done.
    """
    records = Records(grid.root, work)
    found = []
    for index, element in enumerate(elements(grid, work)):
        attempt = records.read(element)
        state, detail = _state(grid, element, outputs[element], attempt, queue)
        job = attempt.job if attempt and state in (RUNNING, QUEUED) else ""
        first = index // MAX_ARRAY * MAX_ARRAY
        in_queue = queue.comments.get((comment_of(grid, work, first), index - first))
        if state in LEFT and in_queue:
            state, detail, job = QUEUED, f"job {in_queue}", in_queue
        found.append(Progress(index, element, state, detail, job))
    return found


def counts(found: list[Progress]) -> str:
    """`done 3/8, failed 1, missing 4`."""
    tally = Counter(progress.state for progress in found)
    others = [f"{state} {tally[state]}" for state in STATES[1:] if tally[state]]
    return ", ".join([f"done {tally[DONE]}/{len(found)}", *others])


def _state(grid: Grid, element: Element, outputs: list[Path], attempt: Attempt | None, queue: Queue) -> tuple[str, str]:
    ended_well = attempt is not None and attempt.state == ENDED and attempt.status == 0
    so_far = ""
    if element.shard:
        blocks = [_blocks_of(grid, path, element.shard) for path in outputs if not path.exists()]
        if all(left == 0 for left, _ in blocks):
            return DONE, "merge is left" if blocks else ""
        done = sum(done for _, done in blocks)
        so_far = f"{done} blocks done" if done else ""
    elif all(path.exists() for path in outputs) and (ended_well or (attempt is None and _are_whole(outputs))):
        return DONE, ""
    if attempt is None or ended_well:
        return MISSING, so_far
    if attempt.state == RUNNING and _still_runs(attempt, queue):
        return RUNNING, ", ".join(filter(None, (so_far, f"job {attempt.job} on {attempt.host}" if attempt.job else "")))
    if attempt.state == INTERRUPTED and queue.state(attempt.job):
        return QUEUED, f"job {attempt.job}, to go on"
    return FAILED, _why(attempt)


def _are_whole(outputs: list[Path]) -> bool:
    """Whether files that are there are finished: result files are saved after every combination, others at the end."""
    return bool(outputs) and all(path.suffix != ".json" or _is_complete(path) for path in outputs)


def _is_complete(result: Path) -> bool:
    try:
        return bool(json.loads(result.read_text()).get("complete"))
    except (OSError, ValueError, AttributeError):
        return False


def _blocks_of(grid: Grid, path: Path, shard: Shard) -> tuple[int | None, int]:
    """Blocks of a shard that are left (None if nothing was begun), and that are there."""
    parent = Layout(grid.root).blocks(path, "any").parent
    folders = sorted(parent.glob(f"*/{MANIFEST}"), key=lambda manifest: manifest.stat().st_mtime)
    if not folders:
        return None, 0
    try:
        blocks = BlockFolder.open(folders[-1].parent)
    except FileNotFoundError:  # assembled in this moment
        return None, 0
    missing = {span.index for span in blocks.missing()}
    mine = [span.index for span in blocks.manifest.spans() if shard.takes(span.index)]
    left = sum(index in missing for index in mine)
    return left, len(mine) - left


def _still_runs(attempt: Attempt, queue: Queue) -> bool:
    """Asked from the queue, or from this machine; where neither knows, an attempt without an end counts as running."""
    if attempt.job:
        return not queue.known or queue.state(attempt.job) in ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")
    if attempt.host != _HERE:
        return True
    try:
        os.kill(attempt.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _why(attempt: Attempt) -> str:
    """The last line of the log, and how the attempt ended."""
    end = {RUNNING: "ended without a word: killed, or its node failed", INTERRUPTED: "interrupted"}
    how = end.get(attempt.state, f"status {attempt.status}")
    try:
        lines = Path(attempt.log).read_text(errors="replace").split("\n") if attempt.log else []
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "; ".join(filter(None, (last, f"{how} ({attempt.log or 'no log file'})")))
