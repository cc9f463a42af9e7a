"""`fungi run-elements COMMAND FLAGS...`: run a command for elements of the grid. Job files call it."""

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

Run COMMAND for elements of the grid: in a SLURM array for the elements of this task, elsewhere for all elements in
sequence. The grid is declared by $FUNGI_GRID, $FUNGI_BACKBONES, $FUNGI_DATASETS, ... (see docs/cluster.md)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 2 for an error that the user can correct."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in ([], ["-h"], ["--help"]):
        print(USAGE)
        return 0
    log.configure()
    try:
        return _run(words, os.environ)
    except (FungiError, OSError) as error:
        print(f"fungi run-elements: {error}", file=sys.stderr)
        return 2


def _run(words: list[str], environ: Mapping[str, str]) -> int:
    """Run the elements in sequence or side by side, and return the first exit status that is not 0, or else 0."""
    grid = declared_grid(environ)
    landmarks = words[:1] == ["--landmarks"]
    call = call_of(words[1:] if landmarks else words, grid, landmarks=landmarks)
    points = elements(grid, call)
    if not points:
        raise FungiError(
            f"the grid has no element for {call.command}: none of its backbones can be used with any of its datasets."
        )
    indices = chosen_indices(environ, len(points), pack_of(grid, call), places(grid, points))
    lines = {index: command_line(points[index], call, grid) + _expect(points[index], call, grid) for index in indices}
    _raise_on_termination()
    if len(indices) > 1 and "SLURM_ARRAY_JOB_ID" in environ:
        return side_by_side(words, indices, grid.root, environ)
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
    """Return the flag `--expect` of a merge or a report, with the files that the jobs before it have to write."""
    needed = {"merge": "extraction", "report": "evaluation"}.get(call.stage)
    if needed is None:
        return []
    files = files_of(expected_files(grid, chosen_jobs(grid, project_folder(), stages=(needed,)), needed), element.pair)
    return ["--expect", *(str(path.relative_to(grid.root) if call.stage == "merge" else path) for path in files)]


def _attempt(element: Element, call: GridCall, line: Sequence[str], records: Records, attempt: Attempt) -> int:
    """Run an element, write the record of the attempt, and return the exit status."""
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
    """Make SIGTERM end the work as Ctrl-C does. Further SIGTERMs are ignored, so that the record can be written.

    This holds for this process alone: workers that it forks end at once.
    """
    main_process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != main_process:
            os._exit(128 + number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


INTERRUPTED_STATUS = 130


def side_by_side(words: Sequence[str], indices: Sequence[int], root: Path, environ: Mapping[str, str]) -> int:
    """Run the elements of a pack at the same time, and return the first exit status that is not 0, or else 0.

    An interruption ends all of them. Each writes its own log, `<root>/logs/<job>-<array>_<task>-element<index>.out`.
    """
    running = {index: _start(words, place, index, len(indices), root, environ) for place, index in enumerate(indices)}
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
    words: Sequence[str], place: int, index: int, count: int, root: Path, environ: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start the element `index`, the one at `place` among `count` of a pack, with its share of GPUs and cores."""
    variables = {**environ, ELEMENT: str(index)}
    if gpus := visible_gpus(environ):
        variables["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    if cores := environ.get("SLURM_CPUS_PER_TASK", ""):
        variables["SLURM_CPUS_PER_TASK"] = variables["OMP_NUM_THREADS"] = str(max(1, int(cores) // count))
    name = f"{environ.get('SLURM_JOB_NAME', 'job')}-{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    log = root / "logs" / f"{name}-element{index}.out"
    log.parent.mkdir(parents=True, exist_ok=True)
    allowed = os.sched_getaffinity(0)
    with log.open("ab") as output:
        command = [sys.executable, "-m", "fungi", "run-elements", *words]
        try:
            os.sched_setaffinity(0, cores_of_place(allowed, place, count, environ))  # the new process inherits them
            process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
        finally:
            os.sched_setaffinity(0, allowed)
    logger.info(f"element {index} on GPU {variables.get('CUDA_VISIBLE_DEVICES', 'none')}: {log}")
    return process


def visible_gpus(environ: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """Return the GPUs of this job in the notation of CUDA_VISIBLE_DEVICES; empty for a job without GPUs.

    If the cluster does not set CUDA_VISIBLE_DEVICES, the number of GPUs is SLURM_GPUS_ON_NODE, or else the number of
    device files. CUDA counts the GPUs that a job may use from 0.
    """
    if (named := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [text for text in named.split(",") if text]
    counted = environ.get("SLURM_GPUS_ON_NODE", "")
    count = int(counted) if counted.isdecimal() else len(list(devices.glob("nvidia[0-9]*")))
    return [str(index) for index in range(count)]


def cores_of_place(allowed: set[int], place: int, count: int, environ: Mapping[str, str]) -> set[int]:
    """Return the cores that an element of a pack is pinned to: neighbouring cores, an equal share of the job's cores.

    Elements are not pinned, and all `allowed` cores are returned, in two cases: if more cores are allowed than the job
    requested (the cluster does not bind jobs to cores, and all jobs of a node would be pinned to the same ones), and if
    there are fewer cores than elements.
    """
    requested = environ.get("SLURM_CPUS_PER_TASK", "")
    if (requested.isdecimal() and len(allowed) > int(requested)) or len(allowed) < count:
        return allowed
    share = len(allowed) // count
    return set(sorted(allowed)[place * share : (place + 1) * share])
