"""`fungi status`: how far the grid is, and the command lines that submit what is missing."""

import os
from dataclasses import dataclass
from pathlib import Path

from fungi.grid.job_files import project_folder
from fungi.grid.settings import GridSettings
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
    from fungi.grid.calls import chosen_jobs, first_unfinished_stage, progress_of_jobs
    from fungi.grid.declaration import existing_root, store_grid
    from fungi.grid.progress import Queue, counts, told
    from fungi.grid.submission import JobEnvironment, arrays, default_python, max_array
    from fungi.grid.submit import DEFAULT_JOBS

    grid = existing_root(settings.declared_or_last())
    project = Path(grid.code) if grid.code else project_folder()
    jobs = chosen_jobs(grid, project, settings.jobs) or chosen_jobs(grid, project, DEFAULT_JOBS)
    found = progress_of_jobs(grid, jobs, Queue.ask())
    for submitted, progress in found:
        print(f"{submitted.job.name:<28} {counts(progress)}")
        for line in told(progress, verbose=settings.verbose):
            print(line)
    left = first_unfinished_stage(found)
    if left:
        (grid.root / "logs").mkdir(parents=True, exist_ok=True)
        environment = JobEnvironment(project, store_grid(grid), default_python(os.environ), max_array())
        print(f"\nleft of the {left[0][0].stage} stage (to submit later stages too: fungi submit --missing):")
        for submitted, indices in left:
            print("\n".join(array.as_shell(environment) for array in arrays(grid, submitted, environment, indices)))
