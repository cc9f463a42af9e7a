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
from fungi.grid.declaration import declared_grid
from fungi.grid.elements import Element, Work, elements
from fungi.grid.job_files import project_folder
from fungi.grid.records import Attempt, Records
from fungi.grid.work import chosen_jobs, command_line, expected_files, work_of
from fungi.runtime import log

USAGE = """usage: fungi run-elements [--landmarks] COMMAND FLAGS...

Run COMMAND for the elements of the grid: in a SLURM array for the element of this task, elsewhere for all of them in
sequence. The grid is declared by $FUNGI_GRID, $FUNGI_BACKBONES, $FUNGI_DATASETS, ...; docs/cluster.md says how."""
INTERRUPTED_STATUS = 130


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
    """Do the elements one after the other; the first status that is not 0, if there is one."""
    grid = declared_grid(environ)
    landmarks = given[:1] == ["--landmarks"]
    work = work_of(given[1:] if landmarks else given, grid, landmarks=landmarks)
    points = elements(grid, work)
    if not points:
        raise FungiError(f"the grid has nothing for {work.command} to do: no backbone and dataset of it go together.")
    indices = chosen_indices(environ, len(points))
    lines = {index: command_line(points[index], work, grid) for index in indices}
    if work.stage == "merge":
        expected = expected_files(grid, chosen_jobs(grid, project_folder(), stages=("extraction",)))
        lines[0] += ["--expect", *(str(path.relative_to(grid.root)) for path in expected)]
    _raise_on_termination()
    first_failure = 0
    for index, line in lines.items():
        _announce(index, points, work, line)
        status = _attempt(points[index], work, line, Records(grid.root, work), environ)
        if status == INTERRUPTED_STATUS:
            return status
        first_failure = first_failure or status
    return first_failure


def _attempt(element: Element, work: Work, line: Sequence[str], records: Records, environ: Mapping[str, str]) -> int:
    """One element, with a record of how it went."""
    attempt = Attempt.begin(environ)
    records.write(element, attempt)
    status = 1
    try:
        status = COMMANDS[work.command].main(line)
    except KeyboardInterrupt:
        status = INTERRUPTED_STATUS
    finally:
        records.write(element, attempt.finished(status, interrupted=status == INTERRUPTED_STATUS))
    return status


def _announce(index: int, points: Sequence[Element], work: Work, line: Sequence[str]) -> None:
    log.logger.info(f"element {index} of 0-{len(points) - 1}: {points[index]}")
    log.logger.info(shorten(f"fungi {work.command} {' '.join(line)}", 2000))


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
