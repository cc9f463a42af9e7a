"""Jobs in the form in which `fungi submit` submits them."""

from pathlib import Path

from fungi.grid.calls import call_of_job
from fungi.grid.declaration import Grid
from fungi.grid.job_files import read_job_file
from fungi.grid.submission import GridJob, JobEnvironment, jobs_in_grid

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = JobEnvironment(ROOT, Path("/r/grid.toml"), "/usr/bin/python3")
"""Environment of the jobs: folder of the job files, file of the grid, and Python."""


def jobs_of(grid: Grid, *names: str) -> list[GridJob]:
    """Return the jobs with these names that have elements in the grid."""
    jobs = [read_job_file(ROOT, name) for name in names]
    return jobs_in_grid(grid, [(job, call_of_job(job, grid)) for job in jobs])
