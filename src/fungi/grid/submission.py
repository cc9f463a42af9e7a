"""The sbatch command lines of a grid: one array per job, each stage after the one before it."""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fungi.commands import STAGES
from fungi.errors import FungiError
from fungi.grid.array import ELEMENT, FIRST, MAX_ARRAY, PARTIAL, array_text, chunks
from fungi.grid.declaration import GRID_FILE, Grid
from fungi.grid.elements import GridCall, elements
from fungi.grid.job_files import JobFile
from fungi.grid.progress import comment_of, pack_of


@dataclass(frozen=True)
class JobEnvironment:
    """What jobs run with: the folder of the (frozen) code, the grid file, the Python.

    max_array: indices that an array may have.
    """

    project: Path
    grid_file: Path
    python: str
    max_array: int = MAX_ARRAY

    def variables(self) -> dict[str, str]:
        """Environment of the jobs."""
        return {"FUNGI_PROJECT": str(self.project), GRID_FILE: str(self.grid_file), "FUNGI_PYTHON": self.python}

    def for_sbatch(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Environment for sbatch: the grid comes from the file alone, and nothing of an outer job gets through."""
        axes = ("BACKBONES", "DATASETS", "SPLITS", "ROOT", "DATA_DIR", "SHARDS", "PACK", "LIMIT", "GPU")
        names = {*(f"FUNGI_{axis}" for axis in axes), PARTIAL, FIRST, ELEMENT}
        prefixes = ("FUNGI_FLAGS_", "SLURM_ARRAY_", "SLURM_JOB", "SLURM_RESTART_COUNT")
        kept = {name: text for name, text in environ.items() if name not in names and not name.startswith(prefixes)}
        return kept | self.variables()


@dataclass(frozen=True)
class Submittable:
    """A job that has elements in the grid."""

    job: JobFile
    call: GridCall
    count: int

    @property
    def stage(self) -> str:
        """Which of STAGES it belongs to."""
        return self.call.stage


@dataclass(frozen=True)
class Array:
    """One call of sbatch: the command, variables of its own, and the tasks by the elements that they do."""

    command: list[str]
    variables: dict[str, str]
    tasks: dict[int, int] = field(default_factory=dict)

    def as_shell(self, jobs: JobEnvironment) -> str:
        """A line for the shell that does the same from any folder."""
        variables = {**jobs.variables(), **self.variables}
        return " ".join(
            [*(f"{name}={shlex.quote(text)}" for name, text in variables.items()), shlex.join(self.command)]
        )


def submittable(grid: Grid, jobs: Sequence[tuple[JobFile, GridCall]]) -> list[Submittable]:
    """The jobs in the order of their stages, without those that have no element in this grid."""
    counted = [Submittable(job, call, len(elements(grid, call))) for job, call in jobs]
    return sorted((job for job in counted if job.count), key=lambda job: STAGES.index(job.stage))


def arrays(
    grid: Grid,
    submitted: Submittable,
    jobs: JobEnvironment,
    indices: Sequence[int],
    after: Sequence[str] = (),
    *,
    even_if_failed: bool = False,
) -> list[Array]:
    """The calls of sbatch for some elements of a job; several where the grid is larger than an array may be.

    after: ids of jobs, or of tasks of arrays, that have to succeed first; to end, if `even_if_failed` of them.
    """
    found, pack = [], pack_of(grid, submitted.call)
    packs = {index: index // pack for index in indices}
    for first, part in chunks(packs.values(), jobs.max_array):
        variables = {PARTIAL: "1"} if len(part) < -(-submitted.count // pack) else {}
        if first:
            variables[FIRST] = str(first)
        limit = f"%{grid.limit}" if grid.limit else ""
        command = ["sbatch", f"--array={array_text(part)}{limit}", f"--output={grid.root}/logs/%x-%A_%a.out"]
        # The grid reaches a job by its environment, which $SBATCH_EXPORT of a cluster may have switched off.
        command += [f"--comment={comment_of(grid, submitted.call, first)}", "--export=ALL"]
        if after:
            kind = "afterany" if even_if_failed else "afterok"
            command += [f"--dependency={kind}:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
        command += [*_resources_of_pack(submitted.job, pack), *grid.sbatch_options(submitted.stage)]
        job_file = jobs.project / "jobs" / f"{submitted.job.name}.job"
        tasks = {index: task - first for index, task in packs.items() if task - first in part}
        found.append(Array([*command, str(job_file)], variables, tasks))
    return found


def max_array() -> int:
    """Indices that an array may have on this cluster: its MaxArraySize, if that is small; FungiError for no arrays."""
    try:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return MAX_ARRAY
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, flags=re.MULTILINE)
    size = int(found[1]) if found else MAX_ARRAY
    if size < 1:
        raise FungiError("this cluster has no job arrays (MaxArraySize=0). Run jobs without: sbatch jobs/NAME.job.")
    return min(MAX_ARRAY, size)


def _resources_of_pack(job: JobFile, pack: int) -> list[str]:
    """What a job file asks for one element, as many times."""
    if pack == 1:
        return []
    words = " ".join(f"--{name}={job.directives.get(name, '')}" for name in ("gpus", "cpus-per-task", "mem"))
    found = re.findall(r"--([\w-]+)=(\d+)(\w*)", words)
    return [f"--{name}={int(number) * pack}{unit}" for name, number, unit in found]


def default_python(environ: Mapping[str, str]) -> str:
    """The Python of this process, unless another is asked for."""
    return environ.get("FUNGI_PYTHON", sys.executable)
