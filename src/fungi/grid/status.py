"""`fungi status`: show the progress of the grid, and the command lines that submit missing elements."""

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fungi.grid.job_files import project_folder
from fungi.grid.settings import GridSettings
from fungi.settings import setting

if TYPE_CHECKING:
    from fungi.grid.declaration import Grid
    from fungi.grid.submission import GridJob

DESCRIPTION = """Show which elements of the grid are done, running, queued, failed (with the reason) or missing, and the
sbatch command lines that submit failed and missing elements. The command reads files below the root and writes nothing;
it needs no model, no data and no SLURM. If many elements have the same problem, it shows only one of them; --verbose
shows all."""


SHOWN_CALLS = 8
"""Largest number of sbatch calls that are printed: nobody copies more by hand."""


@dataclass(frozen=True, kw_only=True)
class StatusSettings(GridSettings):
    """Settings of `fungi status`."""

    jobs: tuple[str, ...] = setting((), "job files below jobs/ (default: all that were submitted or have run)")
    verbose: bool = setting(False, "print a line for every element, not only for those that need attention")


def run(settings: StatusSettings) -> None:
    """Print the state of every job, and the command lines that submit the missing elements. Write no files."""
    from fungi.grid.calls import chosen_jobs, first_unfinished_stage, progress_of_jobs
    from fungi.grid.declaration import require_root
    from fungi.grid.progress_text import counts, details
    from fungi.grid.queue import Queue
    from fungi.grid.submit import DEFAULT_JOBS

    grid = require_root(settings.declared_or_last())
    project = Path(grid.code) if grid.code else project_folder()
    jobs = chosen_jobs(grid, project, settings.jobs, check=False)
    jobs = jobs or chosen_jobs(grid, project, DEFAULT_JOBS, check=False)
    job_progress = progress_of_jobs(grid, jobs, Queue.ask())
    for grid_job, progress in job_progress:
        print(f"{grid_job.job.name:<28} {counts(progress)}")
        for line in details(progress, verbose=settings.verbose):
            print(line)
    if remaining := first_unfinished_stage(job_progress):
        stage = remaining[0][0].stage
        print(f"\nto submit for the {stage} stage (fungi submit --missing also submits the later stages):")
        print("\n".join(command_lines(grid, project, remaining)))


def command_lines(grid: "Grid", project: Path, remaining: "Sequence[tuple[GridJob, list[int]]]") -> "Iterator[str]":
    """Yield shell lines that submit the remaining elements of each job.

    remaining: jobs with the indices of these elements.

    If the grid was never submitted, the lines declare the grid with variables. Variables can't hold names with blanks:
    in this case, there is only one line, which calls `fungi submit`.
    """
    from fungi.grid.declaration import stored_grid_file
    from fungi.grid.submission import ClusterLimits, JobEnvironment, arrays, default_python

    declared = stored_grid_file(grid) or grid.variables()
    if declared is None:
        yield f"fungi submit --missing --root {shlex.quote(str(grid.root))}"
        return
    if not (grid.root / "logs").is_dir():
        yield f"mkdir -p {shlex.quote(str(grid.root / 'logs'))}"
    environment = JobEnvironment(project, declared, default_python(os.environ), ClusterLimits.ask().max_array)
    calls = [array for grid_job, indices in remaining for array in arrays(grid, grid_job, environment, indices)]
    for array in calls[:SHOWN_CALLS]:
        yield array.as_shell(environment)
    if len(calls) > SHOWN_CALLS:
        yield f"and {len(calls) - SHOWN_CALLS} more arrays; fungi submit --missing submits all of them"
