"""`fungi status`: how far the grid is, and the command lines that submit what is missing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fungi.commands import STAGES
from fungi.grid.calls import chosen_jobs, progress_of_jobs
from fungi.grid.job_files import project_folder
from fungi.grid.progress import DONE, FAILED, LEFT, Progress, Queue, counts
from fungi.grid.settings import GridSettings, existing_root, store_grid
from fungi.grid.submission import JobEnvironment, Submittable, arrays, default_python, max_array
from fungi.grid.submit import DEFAULT_JOBS
from fungi.settings import setting

DESCRIPTION = """Show the grid: done, running, queued, failed (and why), missing; and the sbatch command lines that
submit what failed or is missing. Reads the files below the root; needs no model, no data, no SLURM."""


@dataclass(frozen=True, kw_only=True)
class StatusSettings(GridSettings):
    """Which jobs to look at."""

    jobs: tuple[str, ...] = setting(
        (), "job files below jobs/; those that were submitted or have run, if none is named"
    )
    verbose: bool = setting(False, "a line for every element, not only for those that need a look")


def run(settings: StatusSettings) -> None:
    """Print the state of every job, then what to submit again."""
    grid = existing_root(settings.declared_or_last())
    project = Path(grid.code) if grid.code else project_folder()
    jobs = chosen_jobs(grid, project, settings.jobs) or chosen_jobs(grid, project, DEFAULT_JOBS)
    found = progress_of_jobs(grid, jobs, Queue.ask())
    for submitted, progress in found:
        _print_job(submitted.job.name, progress, settings.verbose)
    left = _first_unfinished_stage(found)
    if left:
        (grid.root / "logs").mkdir(parents=True, exist_ok=True)
        environment = JobEnvironment(project, store_grid(grid), default_python(os.environ), max_array())
        print(f"\nleft of the {left[0][0].stage} stage (to submit later stages too: fungi submit --missing):")
        for submitted, indices in left:
            print("\n".join(array.as_shell(environment) for array in arrays(grid, submitted, environment, indices)))


def _first_unfinished_stage(
    found: Sequence[tuple[Submittable, list[Progress]]],
) -> list[tuple[Submittable, list[int]]]:
    """Jobs of the first stage that has something left, with the indices that are left."""
    left = [(submitted, [p.index for p in progress if p.state in LEFT]) for submitted, progress in found]
    left = [(submitted, indices) for submitted, indices in left if indices]
    stage = min((STAGES.index(submitted.stage) for submitted, _ in left), default=None)
    return [(submitted, indices) for submitted, indices in left if STAGES.index(submitted.stage) == stage]


def _print_job(name: str, found: Sequence[Progress], verbose: bool) -> None:
    print(f"{name:<28} {counts(list(found))}")
    for progress in found:
        if verbose or progress.state == FAILED or (progress.state != DONE and progress.detail):
            detail = f": {progress.detail}" if progress.detail else ""
            print(f"  {progress.index:>5}  {progress.state:<8} {progress.element}{detail}")
