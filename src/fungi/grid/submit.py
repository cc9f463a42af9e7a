"""`fungi submit`: submit the grid to SLURM, stage by stage, with a copy of the code."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fungi.commands import STAGES
from fungi.errors import FungiError, counted, unknown_name
from fungi.grid.calls import chosen_jobs, progress_of_jobs
from fungi.grid.chain import PlannedJob, submit_all
from fungi.grid.declaration import LAST_GRID, Grid, require_root, store_grid
from fungi.grid.freezing import freeze
from fungi.grid.job_files import project_folder
from fungi.grid.progress import TO_SUBMIT, pack_of
from fungi.grid.queue import Queue
from fungi.grid.settings import GridSettings
from fungi.grid.submission import (
    Array,
    ClusterLimits,
    GridJob,
    JobEnvironment,
    default_python,
    jobs_in_grid,
    log_pattern,
)
from fungi.runtime.log import logger
from fungi.settings import setting

DESCRIPTION = """Submit the grid to SLURM: an array per job, one element per backbone, dataset, split and shard. Each
pair of backbone and dataset has its own chain from extraction to evaluation, so that a failure does not stop other
pairs; the report waits for all pairs. The code is copied first, so that later edits do not change queued jobs.

  fungi submit --dry-run
  fungi submit --backbones vit-b16 dino_vitb16 --datasets flowers102 pets --root /scratch/me/features
  fungi submit --sbatch="--account=mine --partition=cpu" --sbatch-extraction="--partition=gpu"
  FUNGI_GRID=grid.toml fungi submit --jobs extract grads_kl_multi concat --pack 4     (four GPUs per job)
"""
DEFAULT_JOBS = (
    "projection",
    "grads_all_multi",
    "merge",
    "concat",
    "concat_few_shot",
    "concat_linear",
    "concat_linear_few_shot",
    "retrieval/concat",
    "report",
)


@dataclass(frozen=True, kw_only=True)
class SubmitSettings(GridSettings):
    """Settings of `fungi submit`: the grid, the jobs to submit and options of sbatch."""

    jobs: tuple[str, ...] = setting(
        (), f"job files below jobs/ (default: the jobs of the grid, or {' '.join(DEFAULT_JOBS)})"
    )
    stages: tuple[str, ...] = setting((), f"stages to submit, of {', '.join(STAGES)} (default: all)")
    missing: bool = setting(
        False, "submit only elements that `fungi status` shows as failed or missing, with the code of the submission"
    )
    dry_run: bool = setting(False, "print the calls of sbatch, and submit nothing")
    limit: int | None = setting(
        None,
        "number of tasks of an array that may run at the same time; 0: any number (default: $FUNGI_LIMIT, or 0)",
        within=(0, 10**6),
    )
    sbatch: str = setting(
        "", 'options of sbatch for all jobs, e.g. --sbatch="--account=mine --partition=cpu"', topic="scheduler"
    )
    sbatch_projection: str = setting("", "options of sbatch for the jobs of the projection stage", topic="scheduler")
    sbatch_extraction: str = setting(
        "",
        'options of sbatch for the jobs of the extraction stage, e.g. --sbatch-extraction="--partition=gpu"',
        topic="scheduler",
    )
    sbatch_merge: str = setting("", "options of sbatch for the jobs of the merge stage", topic="scheduler")
    sbatch_evaluation: str = setting("", "options of sbatch for the jobs of the evaluation stage", topic="scheduler")
    sbatch_report: str = setting("", "options of sbatch for the jobs of the report stage", topic="scheduler")

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage not in STAGES:
                raise unknown_name("stage", stage, STAGES)

    def sbatch_options(self) -> dict[str, str]:
        """Return the options of sbatch, by stage."""
        options: dict[str, str] = {"all": self.sbatch}
        options |= {stage: getattr(self, f"sbatch_{stage}") for stage in STAGES}
        return {stage: text for stage, text in options.items() if text}


def run(settings: SubmitSettings) -> None:
    """Plan the submission, then submit or print it.

    With --missing, settings that the command line does not repeat keep the values of the last submission.
    """
    if settings.missing:
        grid = require_root(settings.declared_or_last())
        project = Path(grid.code) if grid.code else project_folder()
    else:
        project, grid = project_folder(), settings.declared()
    limit = grid.limit if settings.limit is None else settings.limit
    sbatch = {**grid.sbatch, **settings.sbatch_options()}
    jobs = settings.jobs or grid.jobs or DEFAULT_JOBS
    if settings.missing:  # the grid keeps its other jobs, for `fungi status` and the next --missing
        jobs = tuple(dict.fromkeys((*grid.jobs, *jobs)))
    grid = replace(grid, jobs=jobs, sbatch=sbatch, limit=limit)
    log_pattern(grid.root)  # raises FungiError before anything is written
    planned_jobs, blocked_jobs = plan(settings, grid, project)
    limits = ClusterLimits.ask()
    if settings.dry_run:
        environment = JobEnvironment(project, Path("GRID_FILE"), default_python(os.environ), limits.max_array)
        submit_all(grid, planned_jobs, environment, partial(_show, environment, Counter[str]()))
        return
    require_room(grid, planned_jobs, limits)
    (grid.root / "logs").mkdir(parents=True, exist_ok=True)
    code = Path(grid.code) if grid.code else freeze(project, grid.root)
    grid_file = store_grid(replace(grid, code=str(code)))
    shutil.copyfile(grid_file, grid.root / LAST_GRID)
    logger.info(f"code: {code}")
    if blocked_jobs:
        subprocess.run(["scancel", *blocked_jobs], check=False)
        logger.info(f"cancelled, because they wait for jobs that failed: {' '.join(blocked_jobs)}")
    environment = JobEnvironment(code, grid_file, default_python(os.environ), limits.max_array)
    submit_all(grid, planned_jobs, environment, partial(_submit, environment))
    logger.info(f"logs: {grid.root / 'logs'}. Show the progress: fungi status --root {grid.root}")


def plan(settings: SubmitSettings, grid: Grid, project: Path) -> tuple[list[PlannedJob], list[str]]:
    """Return the jobs and elements to submit, in the order of the stages, and the ids of queued jobs to cancel.

    The jobs to cancel wait for jobs that failed. project: folder with the job files. Raises FungiError if there is
    nothing to submit.
    """
    jobs = chosen_jobs(grid, project, settings.jobs, settings.stages or STAGES)
    blocked_jobs: list[str] = []
    if settings.missing:
        queue = Queue.ask()
        if queue.failure and not settings.dry_run:
            raise FungiError(f"{queue.failure} Queued elements would be submitted twice. Try again.")
        planned_jobs = []
        for grid_job, progress in progress_of_jobs(grid, jobs, queue):
            indices = [item.index for item in progress if item.state in TO_SUBMIT]
            queued = {item.index: item.job for item in progress if item.job}
            planned_jobs.append(PlannedJob(grid_job, indices, queued))
            blocked_jobs += [item.blocked_job for item in progress if item.blocked_job]
    else:
        planned_jobs = [PlannedJob(grid_job, range(grid_job.count), {}) for grid_job in jobs_in_grid(grid, jobs)]
    for name in sorted({job.name for job, _ in jobs} - {job.grid_job.job.name for job in planned_jobs if job.indices}):
        reason = "nothing to submit" if settings.missing else "no element in this grid"
        logger.info(f"left out: {name} has {reason}")
    if not any(job.indices for job in planned_jobs):
        raise FungiError(
            "there is nothing to submit: the elements of these jobs are done or queued, or the grid has none."
        )
    return planned_jobs, blocked_jobs


def require_room(grid: Grid, planned_jobs: Sequence[PlannedJob], limits: ClusterLimits) -> None:
    """Raise FungiError for a submission with more jobs than the cluster's MaxJobCount.

    Otherwise, sbatch would retry for minutes and then fail after it has submitted a part of the grid.
    """
    tasks = sum(len({index // pack_of(grid, job.grid_job.call) for index in job.indices}) for job in planned_jobs)
    if limits.max_jobs is not None and tasks >= limits.max_jobs:
        raise FungiError(
            f"with the tasks of arrays, this is {counted(tasks, 'job')}, but the cluster allows only"
            f" {limits.max_jobs} (MaxJobCount). Submit parts with --backbones, --datasets or --stages, or use fewer"
            " --shards, or several shards per job (--pack)."
        )


def _show(environment: JobEnvironment, arrays_of_job: Counter[str], array: Array, grid_job: GridJob) -> str:
    """Print the shell line of an array, and return a shell variable as its job id.

    arrays_of_job: number of arrays so far, by name of the job; later arrays of a job get a number.
    """
    name = grid_job.job.name
    arrays_of_job[name] += 1
    print(array.as_shell(environment), flush=True)
    return f"${name}" + (f".{arrays_of_job[name]}" if arrays_of_job[name] > 1 else "")


def _submit(environment: JobEnvironment, array: Array, grid_job: GridJob) -> str:
    """Submit an array, print its job id and number of elements, and return the job id."""
    job_id = sbatch(array, environment)
    print(f"{job_id}  {grid_job.job.name}: {len(array.tasks)} of {counted(grid_job.count, 'element')}", flush=True)
    return job_id


def sbatch(array: Array, environment: JobEnvironment) -> str:
    """Submit an array, and return its job id."""
    variables = environment.for_sbatch(os.environ) | array.variables
    command = [array.command[0], "--parsable", *array.command[1:]]
    try:
        process = subprocess.run(
            command, env=variables, cwd=environment.project, capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise FungiError(
            "sbatch is not installed here. Submit on a login node of the cluster, or use --dry-run."
        ) from None
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())
        raise FungiError(f"sbatch refused {command[-1]}: {reason}. Change its options with --sbatch.") from None
    return process.stdout.strip().split(";")[0]
