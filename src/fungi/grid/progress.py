"""How far the elements of a job are, read from files alone; the queue of SLURM is asked only what still runs."""

import hashlib
import json
import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fungi.errors import FungiError
from fungi.grid.declaration import Grid
from fungi.grid.elements import Element, GridCall, elements
from fungi.grid.records import ENDED, INTERRUPTED, RUNNING, Attempt, Records, same_folder
from fungi.runtime.log import logger
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


@dataclass(frozen=True)
class Expected:
    """The files that show an element to be done (of an extraction: the whole split's), and the settings that make them.

    `settings.difference(path)` says in which setting a file that is there was made otherwise; empty for none.
    """

    paths: list[Path]
    settings: Any = None


class Queue:
    """What SLURM's queue holds of this user's jobs. `known` is False where there is no SLURM to ask.

    states: `<array job>_<index>` or job id -> state. in_hand: a call (`_call_mark`) and an element's index -> job.
    Arrays are told apart by the comment that the submitter gives them (`comment_of`): a job's name says nothing of its
    root. failure: why squeue did not answer, though it is there.
    """

    def __init__(self, lines: Iterable[str] | None = None, failure: str = "") -> None:
        self.known = lines is not None
        self.failure = failure
        self.states: dict[str, str] = {}
        self.in_hand: dict[tuple[str, int], str] = {}
        for job, state, comment in (line.split()[:3] for line in lines or () if len(line.split()) > 2):
            self.states[job] = state
            mark, *numbers = comment.rsplit(":", 2)
            words = [job.partition("_")[2], *numbers]
            if len(words) == 3 and all(word.isdecimal() for word in words):
                index, first, pack = map(int, words)
                for element in range((first + index) * pack, (first + index + 1) * pack):
                    self.in_hand[mark, element] = job

    @classmethod
    def ask(cls) -> "Queue":
        """The queue as squeue tells it; a squeue that fails is warned of, since an empty queue looks the same."""
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T %k"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        except FileNotFoundError:
            return cls()
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
            failure = f"squeue failed ({said}): what waits or runs can't be told."
            logger.warning(failure)
            return cls(failure=failure)
        return cls(done.stdout.splitlines())


def pack_of(grid: Grid, call: GridCall) -> int:
    """Elements that share a task of an array."""
    return grid.pack if call.stage == "extraction" else 1


def comment_of(grid: Grid, call: GridCall, first: int = 0) -> str:
    """What the arrays of a job below one root have as their comment. first: pack of index 0."""
    return f"{_call_mark(grid, call)}:{first}:{pack_of(grid, call)}"


def _call_mark(grid: Grid, call: GridCall) -> str:
    return f"fungi:{call.key}:{hashlib.sha256(str(grid.root.absolute()).encode()).hexdigest()[:8]}"


def progress_of(grid: Grid, call: GridCall, expected: Mapping[Element, Expected], queue: Queue) -> list[Progress]:
    """The state of every element."""
    records = Records(grid.root, call)
    differences: dict[Path, str] = {}  # shards share their files
    found = []
    for index, element in enumerate(elements(grid, call)):
        attempt = records.read(element)
        if attempt and attempt.root and not same_folder(Path(attempt.root), grid.root.absolute()):
            attempt = None  # it came with a copy of the folder it worked in, and says nothing of this one
        wanted = expected[element]
        for path in wanted.paths:
            if wanted.settings is not None and path not in differences and path.exists():
                differences[path] = wanted.settings.difference(path)
        state, detail = _state(grid, element, wanted, attempt, queue)
        if state == DONE and (other := next(filter(None, map(differences.get, wanted.paths)), "")):
            state, detail = MISSING, other
        job = attempt.job if attempt and state in (RUNNING, QUEUED) else ""
        in_queue = queue.in_hand.get((_call_mark(grid, call), index))
        if state in LEFT and in_queue:
            state, detail, job = QUEUED, f"job {in_queue}", in_queue
        found.append(Progress(index, element, state, detail, job))
    return found


def counts(found: list[Progress]) -> str:
    """`done 3/8, failed 1, missing 4`."""
    tally = Counter(progress.state for progress in found)
    others = [f"{state} {tally[state]}" for state in STATES[1:] if tally[state]]
    return ", ".join([f"done {tally[DONE]}/{len(found)}", *others])


def told(found: Iterable[Progress], *, verbose: bool) -> Iterator[str]:
    """A line for every element, or for those that need a look."""
    for progress in found:
        if verbose or progress.state == FAILED or (progress.state != DONE and progress.detail):
            detail = f": {progress.detail}" if progress.detail else ""
            yield f"  {progress.index:>5}  {progress.state:<8} {progress.element}{detail}"


def _state(grid: Grid, element: Element, expected: Expected, attempt: Attempt | None, queue: Queue) -> tuple[str, str]:
    ended_well = attempt is not None and attempt.state == ENDED and attempt.status == 0
    outputs, so_far = expected.paths, ""
    if element.shard:
        blocks = [_blocks_of(grid, path, element.shard, expected.settings) for path in outputs if not path.exists()]
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
    if attempt.state == INTERRUPTED and attempt.job in queue.states:
        return QUEUED, f"job {attempt.job}, to go on"
    return FAILED, _why(attempt)


def _are_whole(outputs: list[Path]) -> bool:
    """Whether files that are there are finished: result files are saved after every combination, others at the end."""
    try:
        results = [json.loads(path.read_text()) for path in outputs if path.suffix == ".json"]
        return bool(outputs) and all(result.get("complete") for result in results)
    except (OSError, ValueError, AttributeError):
        return False


def _blocks_of(grid: Grid, path: Path, shard: Shard, settings: Any) -> tuple[int | None, int]:
    """Blocks of a shard that are left (None if nothing was begun with these settings), and that are there."""
    parent = Layout(grid.root).blocks(path, "any").parent
    for manifest in sorted(parent.glob(f"*/{MANIFEST}"), key=lambda found: found.stat().st_mtime, reverse=True):
        try:
            blocks = BlockFolder.open(manifest.parent)
        except (FileNotFoundError, FungiError):  # assembled in this moment, or damaged: the stage writes it anew
            continue
        if settings is not None and settings.differs_from(blocks.manifest.provenance):
            continue
        missing = {span.index for span in blocks.missing()}
        mine = [span.index for span in blocks.manifest.spans() if shard.takes(span.index)]
        left = sum(index in missing for index in mine)
        return left, len(mine) - left
    return None, 0


def _still_runs(attempt: Attempt, queue: Queue) -> bool:
    """Asked from the queue, or from this machine; where neither knows, an attempt without an end counts as running."""
    if attempt.job:
        return not queue.known or queue.states.get(attempt.job) in ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")
    if attempt.host != _HERE:
        return True
    try:
        os.kill(attempt.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and somebody else's
        pass
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
