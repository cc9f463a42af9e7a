"""`fungi run-elements COMMAND FLAGS...`: run a command for elements of the grid. Job files contain this call."""

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
from fungi.grid.calls import EARLIER_STAGES, call_of, chosen_jobs, command_line, expected_files, files_of
from fungi.grid.declaration import Grid, declared_grid
from fungi.grid.elements import Element, GridCall, elements_of, places_of
from fungi.grid.job_files import project_folder
from fungi.grid.progress import pack_of
from fungi.grid.records import Attempt, Records
from fungi.runtime import log
from fungi.runtime.command import INTERRUPTED_STATUS
from fungi.runtime.log import logger

USAGE = """usage: fungi run-elements [--landmarks] COMMAND FLAGS...

Run COMMAND for elements of the grid, in sequence: in a SLURM array for the elements of this task, otherwise for all
elements. The variables $FUNGI_GRID, $FUNGI_BACKBONES, $FUNGI_DATASETS, ... declare the grid (see docs/cluster.md)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 2 for an error of the user."""
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
    """Run the elements, in sequence or at the same time, and return the first exit status that is not 0, or 0."""
    grid = declared_grid(environ)
    landmarks = words[:1] == ["--landmarks"]
    call = call_of(words[1:] if landmarks else words, grid, landmarks=landmarks)
    elements = elements_of(grid, call)
    if not elements:
        raise FungiError(
            f"the grid has no element for {call.command}: no backbone of the grid can be used with any of its datasets."
        )
    indices = chosen_indices(environ, len(elements), pack_of(grid, call), places_of(grid, elements))
    flags_of = {
        index: command_line(elements[index], call, grid) + _expect_flags(elements[index], call, grid)
        for index in indices
    }
    _raise_on_termination()
    if len(indices) > 1 and "SLURM_ARRAY_JOB_ID" in environ:
        return run_pack(words, indices, grid.root, environ)
    first_failure = 0
    for index, flags in flags_of.items():
        logger.info(f"element {index} of 0-{len(elements) - 1}: {elements[index]}")
        logger.info(shorten(f"fungi {call.command} {' '.join(flags)}", 2000))
        status = _attempt(elements[index], call, flags, Records(grid.root, call), Attempt.begin(environ, grid.root))
        if status == INTERRUPTED_STATUS:
            return status
        first_failure = first_failure or status
    return first_failure


def _expect_flags(element: Element, call: GridCall, grid: Grid) -> list[str]:
    """Return the flag `--expect` of a merge or a report, with the files that the earlier jobs have to write."""
    earlier_stage = EARLIER_STAGES.get(call.stage)
    if earlier_stage is None:
        return []
    jobs = chosen_jobs(grid, project_folder(), stages=(earlier_stage,))
    files = files_of(expected_files(grid, jobs, earlier_stage), element.pair)
    return ["--expect", *(str(path.relative_to(grid.root) if call.stage == "merge" else path) for path in files)]


def _attempt(element: Element, call: GridCall, flags: Sequence[str], records: Records, attempt: Attempt) -> int:
    """Run an element, write the record of the attempt, and return the exit status."""
    records.write(element, attempt)
    status = 1
    try:
        status = COMMANDS[call.command].main(flags)
    except KeyboardInterrupt:
        status = INTERRUPTED_STATUS
    finally:
        records.write(element, attempt.finished(status, interrupted=status == INTERRUPTED_STATUS))
    return status


def _raise_on_termination() -> None:
    """Raise KeyboardInterrupt at SIGTERM, like Ctrl-C, and ignore further SIGTERMs while the record is written.

    Worker processes inherit this handler, but they end at once.
    """
    main_process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != main_process:
            os._exit(128 + number)  # the status that a shell reports after this signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


def run_pack(words: Sequence[str], indices: Sequence[int], root: Path, environ: Mapping[str, str]) -> int:
    """Run the elements of a pack at the same time, and return the first exit status that is not 0, or 0.

    words: arguments of this call of `fungi run-elements`. indices: indices of the elements in the grid.

    An interruption ends all elements. Each element writes a log, `<root>/logs/<job>-<array>_<task>-element<index>.out`.
    """
    processes = {
        index: _start(words, position, index, len(indices), root, environ) for position, index in enumerate(indices)
    }
    try:
        statuses = {index: _status_in_a_shell(process.wait()) for index, process in processes.items()}
    except KeyboardInterrupt:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()
        return INTERRUPTED_STATUS
    for index, status in statuses.items():
        logger.info(f"element {index}: {'done' if status == 0 else f'status {status}'}")
    return next((status for status in statuses.values() if status), 0)


def _status_in_a_shell(status: int) -> int:
    """Return the exit status that a shell reports, 128 + n after signal n. `subprocess` reports -n for this signal."""
    return status if status >= 0 else 128 - status


def _start(
    words: Sequence[str], position: int, index: int, count: int, root: Path, environ: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start the process of an element, with its share of GPUs and cores.

    index: index of the element in the grid.
    position: position of the element in the pack.
    count: number of elements in the pack.
    """
    variables = {**environ, ELEMENT: str(index)}
    if gpus := visible_gpus(environ):
        variables["CUDA_VISIBLE_DEVICES"] = gpus[position % len(gpus)]
    if cores := environ.get("SLURM_CPUS_PER_TASK", ""):
        variables["SLURM_CPUS_PER_TASK"] = variables["OMP_NUM_THREADS"] = str(max(1, int(cores) // count))
    name = f"{environ.get('SLURM_JOB_NAME', 'job')}-{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    log_file = root / "logs" / f"{name}-element{index}.out"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    allowed = os.sched_getaffinity(0)
    with log_file.open("ab") as output:
        command = [sys.executable, "-m", "fungi", "run-elements", *words]
        try:
            os.sched_setaffinity(0, cores_of_element(allowed, position, count, environ))  # inherited by the new process
            process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT)
        finally:
            os.sched_setaffinity(0, allowed)
    logger.info(f"element {index} on GPU {variables.get('CUDA_VISIBLE_DEVICES', 'none')}: {log_file}")
    return process


def visible_gpus(environ: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """Return the GPUs of this job in the notation of CUDA_VISIBLE_DEVICES; empty for a job without GPUs.

    If the cluster does not set CUDA_VISIBLE_DEVICES, the number of GPUs is SLURM_GPUS_ON_NODE. If this variable is not
    set either, it is the number of device files. CUDA counts the GPUs of a job from 0.
    """
    if (visible := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    gpus_on_node = environ.get("SLURM_GPUS_ON_NODE", "")
    count = int(gpus_on_node) if gpus_on_node.isdecimal() else len(list(devices.glob("nvidia[0-9]*")))
    return [str(index) for index in range(count)]


def cores_of_element(allowed: set[int], position: int, count: int, environ: Mapping[str, str]) -> set[int]:
    """Return the cores for an element of a pack: neighbouring cores, an equal share of the cores of the job.

    allowed: cores that this process may use. position: position of the element in the pack. count: number of elements
    in the pack.

    In two cases, return all `allowed` cores instead: if there are fewer cores than elements, and if more cores are
    allowed than the job requested. In the second case, the cluster does not bind jobs to cores, and all jobs of a node
    would get the same cores.
    """
    requested = environ.get("SLURM_CPUS_PER_TASK", "")
    if (requested.isdecimal() and len(allowed) > int(requested)) or len(allowed) < count:
        return allowed
    share = len(allowed) // count
    return set(sorted(allowed)[position * share : (position + 1) * share])
