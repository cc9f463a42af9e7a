"""`fungi submit`: the whole grid to SLURM, stage after stage."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fungi.commands import STAGES
from fungi.errors import FungiError, unknown_name
from fungi.grid.declaration import Grid
from fungi.grid.freezing import freeze
from fungi.grid.job_files import project_folder
from fungi.grid.progress import LEFT
from fungi.grid.settings import LAST_GRID, GridSettings, store_grid
from fungi.grid.submission import Array, Place, Submittable, arrays, default_python, submittable
from fungi.grid.work import chosen_jobs, progress_of_jobs
from fungi.runtime.log import logger
from fungi.settings import setting

DESCRIPTION = """Submit the grid to SLURM: an array per job, one element per backbone, dataset, split and shard; each
stage starts when the one before it has succeeded. The code is copied first: later edits change nothing that is queued.

  fungi submit --dry-run
  fungi submit --backbones vit-b16 dino_vitb16 --datasets flowers102 pets --root /scratch/me/features
  FUNGI_GRID=grid.toml fungi submit --jobs extract grads_kl_multi concat --sbatch="--partition=gpu --account=mine"
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
    """What to submit, and how."""

    jobs: tuple[str, ...] = setting((), f"job files below jobs/; the grid's if absent, else {' '.join(DEFAULT_JOBS)}")
    stages: tuple[str, ...] = setting((), f"only these stages: {', '.join(STAGES)}; all if none is named")
    missing: bool = setting(
        False, "only what `fungi status` shows as failed or missing, with the code of the first time"
    )
    dry_run: bool = setting(False, "print what would be submitted, and do nothing")
    limit: int = setting(0, "array elements that may run at once; 0 for any number", within=(0, 10**6))
    sbatch: str = setting("", 'further options for sbatch, as in --sbatch="--partition=gpu --account=mine"')

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage not in STAGES:
                raise unknown_name("stage", stage, STAGES)


def run(settings: SubmitSettings) -> None:
    """Plan, then submit or print."""
    if settings.missing:
        grid = settings.declared_or_last()
        project = Path(grid.code) if grid.code else project_folder()
    else:
        project, grid = project_folder(), settings.declared()
    last_jobs = grid.jobs if settings.missing else settings.jobs or grid.jobs
    grid = replace(grid, jobs=last_jobs or settings.jobs or DEFAULT_JOBS)
    planned = plan(settings, grid, project)
    if settings.dry_run:
        _submit(grid, planned, _place(settings, project, Path("GRID_FILE")), really=False)
        return
    (grid.root / "logs").mkdir(parents=True, exist_ok=True)
    code = Path(grid.code) if grid.code else freeze(project, grid.root)
    grid_file = store_grid(replace(grid, code=str(code)))
    shutil.copyfile(grid_file, grid.root / LAST_GRID)
    logger.info(f"code: {code}")
    _submit(grid, planned, _place(settings, code, grid_file), really=True)
    logger.info(f"logs: {grid.root / 'logs'}. How it goes: fungi status --root {grid.root}")


@dataclass(frozen=True)
class Planned:
    """A job, its elements to submit, and the jobs that have others of its elements in hand already."""

    submitted: Submittable
    indices: list[int]
    in_hand: list[str]


def plan(settings: SubmitSettings, grid: Grid, project: Path) -> list[Planned]:
    """The chosen jobs and their elements to submit, in the order of their stages."""
    jobs = chosen_jobs(grid, project, stages=settings.stages or STAGES)
    if settings.missing:
        planned = [
            Planned(submitted, [p.index for p in found if p.state in LEFT], [p.job for p in found if p.job])
            for submitted, found in progress_of_jobs(grid, jobs)
        ]
    else:
        planned = [Planned(submitted, list(range(submitted.count)), []) for submitted in submittable(grid, jobs)]
    for name in sorted({job.name for job, _ in jobs} - {job.submitted.job.name for job in planned if job.indices}):
        logger.info(f"left out: {name} has {'nothing left' if settings.missing else 'no element in this grid'}")
    if not any(job.indices for job in planned):
        raise FungiError("there is nothing to submit: no element of these jobs is left in this grid.")
    return planned


def _submit(grid: Grid, planned: Sequence[Planned], place: Place, *, really: bool) -> None:
    """Submit (or show) the stages in order; each depends on all jobs of the one before it."""
    after: list[str] = []
    for stage in STAGES:
        ids = []
        for job in planned:
            if job.submitted.stage != stage:
                continue
            ids += job.in_hand
            for array in arrays(grid, job.submitted, place, job.indices, after):
                name = job.submitted.job.name
                ids.append(sbatch(array, place) if really else f"${name}")
                said = f"{ids[-1]}  {name}: {len(job.indices)} of {job.submitted.count} elements"
                print(said if really else array.as_shell(place), flush=True)
        after = ids or after


def sbatch(array: Array, place: Place) -> str:
    """Submit an array; its job id."""
    environment = place.environment(os.environ) | array.variables
    command = [array.command[0], "--parsable", *array.command[1:]]
    try:
        done = subprocess.run(command, env=environment, cwd=place.project, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise FungiError("there is no sbatch here. Submit on a login node of the cluster, or use --dry-run.") from None
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())
        raise FungiError(f"sbatch refused {command[-1]}: {reason}. Give other options with --sbatch.") from None
    return done.stdout.strip().split(";")[0]


def _place(settings: SubmitSettings, project: Path, grid_file: Path) -> Place:
    try:
        options = tuple(shlex.split(settings.sbatch))
    except ValueError as error:
        raise FungiError(f"--sbatch {settings.sbatch!r} can't be split: {error}.") from None
    return Place(project, grid_file, default_python(os.environ), options, settings.limit)
