"""The sbatch command lines of a grid: one array per job, each stage after the one before it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fungi.commands import STAGES
from fungi.grid.array import FIRST, PARTIAL, array_text, chunks
from fungi.grid.declaration import GRID_FILE, Grid
from fungi.grid.elements import Work, elements
from fungi.grid.job_files import JobFile
from fungi.grid.progress import comment_of


@dataclass(frozen=True)
class Place:
    """What jobs run with: the folder of the (frozen) code, the grid file, the Python, further options of sbatch.

    limit: array tasks that may run at once; 0 for any number.
    """

    project: Path
    grid_file: Path
    python: str
    options: tuple[str, ...] = ()
    limit: int = 0

    def variables(self) -> dict[str, str]:
        """Environment of the jobs."""
        return {"FUNGI_PROJECT": str(self.project), GRID_FILE: str(self.grid_file), "FUNGI_PYTHON": self.python}

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Environment for sbatch: the grid comes from the file alone, and nothing of an outer job gets through."""
        kept = {name: text for name, text in environ.items() if not _is_foreign(name)}
        return kept | self.variables()


@dataclass(frozen=True)
class Submittable:
    """A job that has elements in the grid."""

    job: JobFile
    work: Work
    count: int

    @property
    def stage(self) -> str:
        """Which of STAGES it belongs to."""
        return self.work.stage


@dataclass(frozen=True)
class Array:
    """One call of sbatch: the command, and variables of its own."""

    command: list[str]
    variables: dict[str, str]

    def as_shell(self, place: Place) -> str:
        """A line for the shell that does the same from any folder."""
        variables = {**place.variables(), **self.variables}
        return " ".join(
            [*(f"{name}={shlex.quote(text)}" for name, text in variables.items()), shlex.join(self.command)]
        )


def submittable(grid: Grid, jobs: Sequence[tuple[JobFile, Work]]) -> list[Submittable]:
    """The jobs in the order of their stages, without those that have no element in this grid."""
    counted = [Submittable(job, work, len(elements(grid, work))) for job, work in jobs]
    return sorted((job for job in counted if job.count), key=lambda job: STAGES.index(job.stage))


def arrays(
    grid: Grid, submitted: Submittable, place: Place, indices: Sequence[int], after: Sequence[str] = ()
) -> list[Array]:
    """The calls of sbatch for some elements of a job; several where the grid is larger than an array may be.

    after: job ids that have to succeed first.
    """
    found = []
    for first, part in chunks(indices):
        variables = {PARTIAL: "1"} if len(part) < submitted.count else {}
        if first:
            variables[FIRST] = str(first)
        limit = f"%{place.limit}" if place.limit else ""
        command = ["sbatch", f"--array={array_text(part)}{limit}", f"--output={grid.root}/logs/%x-%A_%a.out"]
        # The grid reaches a job by its environment, which $SBATCH_EXPORT of a cluster may have switched off.
        command += [f"--comment={comment_of(grid, submitted.work, first)}", "--export=ALL"]
        if after:
            command += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"]
        job_file = place.project / "jobs" / f"{submitted.job.name}.job"
        found.append(Array([*command, *place.options, str(job_file)], variables))
    return found


def default_python(environ: Mapping[str, str]) -> str:
    """The Python of this process, unless another is asked for."""
    import sys

    return environ.get("FUNGI_PYTHON", sys.executable)


def _is_foreign(name: str) -> bool:
    grid = name.startswith("FUNGI_FLAGS_") or name in {
        f"FUNGI_{axis}"
        for axis in ("BACKBONES", "DATASETS", "SPLITS", "ROOT", "DATA_DIR", "SHARDS", "GPU", "PARTIAL", "FIRST")
    }
    return grid or name.startswith(("SLURM_ARRAY_", "SLURM_JOB", "SLURM_RESTART_COUNT"))
