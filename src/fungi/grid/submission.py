"""The sbatch command lines of a grid: arrays of jobs and their dependencies."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from fungi.commands import STAGES, Stage
from fungi.errors import FungiError
from fungi.grid.array import ELEMENT, FIRST, MAX_ARRAY, PARTIAL, SLOT, ArrayShape, Place, array_text, chunks
from fungi.grid.declaration import GRID_FILE, Grid
from fungi.grid.elements import Element, GridCall, elements_of, places_of
from fungi.grid.job_files import JobFile
from fungi.grid.progress import pack_of, shape_of
from fungi.grid.queue import comment_of

CHAINED: tuple[Stage, ...] = ("extraction", "merge", "evaluation")
"""Stages of the chain of a backbone and dataset; each stage needs the stage before it."""


@dataclass(frozen=True)
class JobEnvironment:
    """The environment of the jobs.

    project: folder of the (frozen) code. grid: grid file, or the variables that declare the grid.
    python: path of the interpreter. max_array: largest number of tasks in an array.
    """

    project: Path
    grid: Path | Mapping[str, str]
    python: str
    max_array: int = MAX_ARRAY

    def variables(self) -> dict[str, str]:
        """Return the variables that the jobs need."""
        grid = {GRID_FILE: str(self.grid)} if isinstance(self.grid, Path) else dict(self.grid)
        return {"FUNGI_PROJECT": str(self.project), **grid, "FUNGI_PYTHON": self.python}

    def for_sbatch(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return `variables()` and `environ`, without the variables of another grid or of a surrounding job."""
        axes = ("BACKBONES", "DATASETS", "SPLITS", "ROOT", "DATA_DIR", "SHARDS", "PACK", "LIMIT", "GPU")
        names = {*(f"FUNGI_{axis}" for axis in axes), PARTIAL, FIRST, ELEMENT, SLOT}
        prefixes = ("FUNGI_FLAGS_", "SLURM_ARRAY_", "SLURM_JOB", "SLURM_RESTART_COUNT")
        others = {name: text for name, text in environ.items() if name not in names and not name.startswith(prefixes)}
        return others | self.variables()


@dataclass(frozen=True)
class GridJob:
    """A job with its elements in a grid, in the order of their indices, and the places of the elements."""

    job: JobFile
    call: GridCall
    elements: Sequence[Element]
    places: Sequence[Place]

    @property
    def count(self) -> int:
        """Number of elements."""
        return len(self.elements)

    @property
    def stage(self) -> Stage:
        """Stage of the job."""
        return self.call.stage


@dataclass(frozen=True)
class Dependency:
    """The jobs (or tasks of arrays) that a job waits for, and SLURM's type of the dependency.

    kind: `afterok` waits until the jobs succeed, `afterany` until they end. With `aftercorr`, each task waits until the
    task with the same index succeeds in each of these arrays.
    """

    jobs: Sequence[str] = ()
    kind: str = "afterok"

    def words(self) -> list[str]:
        """Return the options of sbatch."""
        if not self.jobs:
            return []
        return [f"--dependency={self.kind}:{':'.join(self.jobs)}", "--kill-on-invalid-dep=yes"]


@dataclass(frozen=True)
class Array:
    """A call of sbatch.

    command: its words, from `sbatch` to the job file.
    variables: environment variables of this array only. tasks: index of the element -> index in the array.
    """

    command: list[str]
    variables: dict[str, str]
    tasks: dict[int, int] = field(default_factory=dict)

    def as_shell(self, environment: JobEnvironment) -> str:
        """Return a shell line that submits the array from any folder."""
        variables = {**environment.variables(), **self.variables}
        return " ".join(
            [*(f"{name}={shlex.quote(text)}" for name, text in variables.items()), shlex.join(self.command)]
        )


def jobs_in_grid(grid: Grid, jobs: Sequence[tuple[JobFile, GridCall]]) -> list[GridJob]:
    """Return the jobs that have elements in this grid, in the order of their stages."""
    with_elements = [(job, call, elements_of(grid, call)) for job, call in jobs]
    grid_jobs = [
        GridJob(job, call, elements, places_of(grid, elements)) for job, call, elements in with_elements if elements
    ]
    return sorted(grid_jobs, key=lambda job: STAGES.index(job.stage))


def arrays(
    grid: Grid,
    grid_job: GridJob,
    environment: JobEnvironment,
    indices: Sequence[int],
    after: Dependency = Dependency(),
) -> list[Array]:
    """Return the calls of sbatch for some elements of a job; several calls if one array can't hold the elements.

    indices: indices of the elements to submit. after: jobs that the arrays wait for.
    """
    pack = pack_of(grid, grid_job.call)
    packs: dict[int, list[int]] = {}
    for index in indices:
        packs.setdefault(index // pack, []).append(index)
    packs_of_job = ceil(grid_job.count / pack)
    calls = []
    for first, tasks in chunks(packs, environment.max_array):
        shape = shape_of(grid, grid_job.call, first=first)
        variables = shape.variables() | ({PARTIAL: "1"} if len(tasks) < packs_of_job else {})
        command = _command(grid, grid_job, environment, shape, tasks, after, grid.limit)
        task_of_index = {index: task for task in tasks for index in packs[first + task]}
        calls.append(Array(command, variables, task_of_index))
    return calls


def pair_arrays(
    grid: Grid,
    grid_job: GridJob,
    environment: JobEnvironment,
    pairs: Sequence[int],
    slots: Sequence[int],
    after: Dependency = Dependency(),
) -> Iterator[Array]:
    """Yield one call of sbatch per slot. Task `t` of each array computes elements of pair `first + t` (`ArrayShape`).

    pairs: numbers of pairs that fit into one array (`chunks`). after: jobs that the arrays wait for.
    """
    ((first, tasks),) = chunks(pairs, environment.max_array)
    indices = {place: index for index, place in enumerate(grid_job.places)}
    limit = max(1, grid.limit // len(slots)) if grid.limit else 0  # the arrays of all slots run at the same time
    for slot in slots:
        shape = shape_of(grid, grid_job.call, first=first, slot=slot)
        command = _command(grid, grid_job, environment, shape, tasks, after, limit)
        task_of_index = {
            indices[Place(first + task, position)]: task
            for task in tasks
            for position in shape.elements(task)
            if Place(first + task, position) in indices
        }
        yield Array(command, shape.variables(), task_of_index)


def _command(
    grid: Grid,
    grid_job: GridJob,
    environment: JobEnvironment,
    shape: ArrayShape,
    tasks: Sequence[int],
    after: Dependency,
    limit: int,
) -> list[str]:
    """Return the command line of sbatch for an array.

    tasks: indices in the array. after: jobs that the array waits for. limit: number of tasks that may run at the same
    time; 0 for any number.
    """
    task_limit = f"%{limit}" if limit else ""
    command = ["sbatch", f"--array={array_text(tasks)}{task_limit}", f"--output={log_pattern(grid.root)}"]
    # Jobs read the grid from their environment. --export=ALL passes our environment on, whatever $SBATCH_EXPORT says.
    command += [f"--comment={comment_of(grid, grid_job.call, shape)}", "--export=ALL", *after.words()]
    command += [*_resources_of_pack(grid_job.job, shape.pack), *grid.sbatch_options(grid_job.stage)]
    return [*command, str(environment.project / "jobs" / f"{grid_job.job.name}.job")]


def log_pattern(root: Path) -> str:
    """Return the pattern of an array's log files, for sbatch --output. Raises FungiError for a backslash in the root.

    SLURM replaces patterns such as `%x` in the path. If the path contains a backslash, SLURM replaces nothing.
    """
    if "\\" in str(root):
        raise FungiError(
            f"the folder {root} has a backslash in its name: SLURM can't write log files there, and jobs would fail "
            "without a message. Choose another --root."
        )
    return f"{root}/logs".replace("%", "%%") + "/%x-%A_%a.out"


@dataclass(frozen=True)
class ClusterLimits:
    """Limits of the cluster.

    max_array: largest number of tasks in an array.
    max_jobs: largest number of queued and running jobs, including the tasks of arrays; None if unknown.
    """

    max_array: int = MAX_ARRAY
    max_jobs: int | None = None

    @classmethod
    def ask(cls) -> "ClusterLimits":
        """Return the limits that scontrol prints, or default limits without scontrol.

        Raises FungiError for a cluster that does not allow arrays.
        """
        command = ["scontrol", "show", "config"]
        try:
            process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            return cls()
        sizes = dict(re.findall(r"^(MaxArraySize|MaxJobCount)\s*=\s*(\d+)", process.stdout, flags=re.MULTILINE))
        max_array = int(sizes.get("MaxArraySize", MAX_ARRAY))
        if max_array < 1:
            raise FungiError(
                "this cluster does not allow job arrays (MaxArraySize=0). Submit jobs without arrays:"
                " sbatch jobs/NAME.job."
            )
        return cls(min(MAX_ARRAY, max_array), int(sizes["MaxJobCount"]) if "MaxJobCount" in sizes else None)


def _resources_of_pack(job: JobFile, pack: int) -> list[str]:
    """Return the options of sbatch that request `pack` times the GPUs, cores and memory of the job file."""
    if pack == 1:
        return []
    directives = " ".join(f"--{name}={job.directives.get(name, '')}" for name in ("gpus", "cpus-per-task", "mem"))
    resources = re.findall(r"--([\w-]+)=(\d+)(\w*)", directives)
    return [f"--{name}={int(number) * pack}{unit}" for name, number, unit in resources]


def default_python(environ: Mapping[str, str]) -> str:
    """Return the interpreter of the jobs: $FUNGI_PYTHON, or the interpreter of this process."""
    return environ.get("FUNGI_PYTHON", sys.executable)
