"""`fungi run-elements COMMAND FLAGS...`: what a job script calls. Runs a command for its part of the grid."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from types import FrameType

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.grid.array import ELEMENT, chosen_indices
from fungi.grid.calls import call_of, chosen_jobs, command_line, expected_files, files_of
from fungi.grid.declaration import Grid, declared_grid
from fungi.grid.elements import Element, GridCall, elements, places
from fungi.grid.job_files import project_folder
from fungi.grid.progress import pack_of
from fungi.grid.records import Attempt, Records
from fungi.runtime import log
from fungi.runtime.log import logger

USAGE = """usage: fungi run-elements [--landmarks] COMMAND FLAGS...

Run COMMAND for the elements of the grid: in a SLURM array for the element of this task, elsewhere for all of them in
sequence. The grid is declared by $FUNGI_GRID, $FUNGI_BACKBONES, $FUNGI_DATASETS, ...; docs/cluster.md says how."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in ([], ["-h"], ["--help"]):
        print(USAGE)
        return 0
    log.configure()
    try:
        return _run(given, os.environ)
    except (FungiError, OSError) as error:
        print(f"fungi run-elements: {error}", file=sys.stderr)
        return 2


def _run(given: list[str], environ: Mapping[str, str]) -> int:
    """Do the elements one after the other, or side by side; the first status that is not 0, if there is one."""
    grid = declared_grid(environ)
    landmarks = given[:1] == ["--landmarks"]
    words = given[1:] if landmarks else given
    call = call_of(words, grid, landmarks=landmarks)
    points = elements(grid, call)
    if not points:
        raise FungiError(f"the grid has nothing for {call.command} to do: no backbone and dataset of it go together.")
    indices = chosen_indices(environ, len(points), pack_of(grid, call), places(grid, points))
    lines = {index: command_line(points[index], call, grid) + _expect(points[index], call, grid) for index in indices}
    _raise_on_termination()
    if len(indices) > 1 and "SLURM_ARRAY_JOB_ID" in environ:
        return side_by_side(given, indices, grid.root, environ)
    first_failure = 0
    for index, line in lines.items():
        log.logger.info(f"element {index} of 0-{len(points) - 1}: {points[index]}")
        log.logger.info(shorten(f"fungi {call.command} {' '.join(line)}", 2000))
        status = _attempt(points[index], call, line, Records(grid.root, call), Attempt.begin(environ, grid.root))
        if status == INTERRUPTED_STATUS:
            return status
        first_failure = first_failure or status
    return first_failure


def _expect(element: Element, call: GridCall, grid: Grid) -> list[str]:
    """What a merge or a report is told of the files that have to be there, since it comes after their jobs."""
    needed = {"merge": "extraction", "report": "evaluation"}.get(call.stage)
    if needed is None:
        return []
    files = files_of(expected_files(grid, chosen_jobs(grid, project_folder(), stages=(needed,)), needed), element.pair)
    return ["--expect", *(str(path.relative_to(grid.root) if call.stage == "merge" else path) for path in files)]


def _attempt(element: Element, call: GridCall, line: Sequence[str], records: Records, attempt: Attempt) -> int:
    """One element, with a record of how it went."""
    records.write(element, attempt)
    status = 1
    try:
        status = COMMANDS[call.command].main(line)
    except KeyboardInterrupt:
        status = INTERRUPTED_STATUS
    finally:
        records.write(element, attempt.finished(status, interrupted=status == INTERRUPTED_STATUS))
    return status


def _raise_on_termination() -> None:
    """SIGTERM ends the work as Ctrl-C does, once: what comes after it must not disturb the last words.

    Only in this process: workers that it forks later end at once, as they would by default.
    """
    main_process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != main_process:
            os._exit(128 + number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


INTERRUPTED_STATUS = 130


def side_by_side(given: Sequence[str], indices: Sequence[int], root: Path, environ: Mapping[str, str]) -> int:
    """Run the elements of a pack; the first status that is not 0. An interruption is passed on to all of them.

    Each writes to a log of its own, `<root>/logs/<job>-<array>_<task>-element<index>.out`.
    """
    running = {index: _start(given, place, index, len(indices), root, environ) for place, index in enumerate(indices)}
    try:
        statuses = {index: process.wait() for index, process in running.items()}
    except KeyboardInterrupt:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        return INTERRUPTED_STATUS
    for index, status in statuses.items():
        logger.info(f"element {index}: {'done' if status == 0 else f'status {status}'}")
    return next((status for status in statuses.values() if status), 0)


def _start(
    given: Sequence[str], place: int, index: int, count: int, root: Path, environ: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    own = {**environ, ELEMENT: str(index)}
    if gpus := visible_gpus(environ):
        own["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    if cores := environ.get("SLURM_CPUS_PER_TASK", ""):
        own["SLURM_CPUS_PER_TASK"] = own["OMP_NUM_THREADS"] = str(max(1, int(cores) // count))
    name = f"{environ.get('SLURM_JOB_NAME', 'job')}-{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    log = root / "logs" / f"{name}-element{index}.out"
    log.parent.mkdir(parents=True, exist_ok=True)
    allowed = os.sched_getaffinity(0)
    with log.open("ab") as output:
        command = [sys.executable, "-m", "fungi", "run-elements", *given]
        try:
            os.sched_setaffinity(0, cores_of_place(allowed, place, count, environ))  # the new process inherits them
            process = subprocess.Popen(command, env=own, stdout=output, stderr=subprocess.STDOUT)
        finally:
            os.sched_setaffinity(0, allowed)
    logger.info(f"element {index} on GPU {own.get('CUDA_VISIBLE_DEVICES', 'none')}: {log}")
    return process


def visible_gpus(environ: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """Return the GPUs of this job as CUDA_VISIBLE_DEVICES names them; none where there are none.

    Where a cluster sets no CUDA_VISIBLE_DEVICES, the GPUs are counted: SLURM_GPUS_ON_NODE, else the device files.
    CUDA then numbers from 0 what the job may see.
    """
    if (named := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [text for text in named.split(",") if text]
    counted = environ.get("SLURM_GPUS_ON_NODE", "")
    count = int(counted) if counted.isdecimal() else len(list(devices.glob("nvidia[0-9]*")))
    return [str(index) for index in range(count)]


def cores_of_place(allowed: set[int], place: int, count: int, environ: Mapping[str, str]) -> set[int]:
    """Return the cores that a shard of a pack is pinned to: its share of the job's, in one piece.

    All that are allowed where they are more than the job asked for (the cluster does not bind jobs, and pinning would
    pile the jobs of a node up on the same cores), and where there are fewer cores than shards.
    """
    asked = environ.get("SLURM_CPUS_PER_TASK", "")
    if (asked.isdecimal() and len(allowed) > int(asked)) or len(allowed) < count:
        return allowed
    share = len(allowed) // count
    return set(sorted(allowed)[place * share : (place + 1) * share])
