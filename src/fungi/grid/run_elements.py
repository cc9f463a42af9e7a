"""`fungi run-elements COMMAND FLAGS...`: what a job script calls. Runs a command for its part of the grid."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from textwrap import shorten
from types import FrameType

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.grid.array import chosen_indices
from fungi.grid.calls import call_of, chosen_jobs, command_line, expected_files
from fungi.grid.declaration import Grid, declared_grid
from fungi.grid.elements import Element, GridCall, elements
from fungi.grid.job_files import project_folder
from fungi.grid.pack import INTERRUPTED_STATUS, side_by_side
from fungi.grid.progress import pack_of
from fungi.grid.records import Attempt, Records
from fungi.runtime import log

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
    indices = chosen_indices(environ, len(points), pack_of(grid, call))
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
    files = expected_files(grid, chosen_jobs(grid, project_folder(), stages=(needed,)), needed, element.pair)
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
