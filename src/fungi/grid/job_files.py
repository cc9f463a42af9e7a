"""Read job files: their #SBATCH directives and the command that they run over the grid.

A job file is a shell script that also runs without SLURM. `fungi submit` reads two kinds of lines:

    #SBATCH --time=04:00:00
    over_grid extract-gradients --objective simclr        (or over_landmarks ...)
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from fungi.errors import FungiError, MissingFilesError, unknown_name

COMMON = Path("jobs/common.sh")
_CALL = re.compile(r"^over_(grid|landmarks) (.+)$", flags=re.MULTILINE)


@dataclass(frozen=True)
class JobFile:
    """A job file that runs a command over the grid.

    name: path below jobs/, without the suffix. directives: option of sbatch -> value, from the lines `#SBATCH`.
    words: command and flags after `over_grid` or `over_landmarks`.
    landmarks: whether the job runs only over the retrieval datasets (`over_landmarks`).
    """

    name: str
    path: Path
    directives: dict[str, str]
    words: tuple[str, ...]
    landmarks: bool


def project_folder() -> Path:
    """Return the folder with the job files: $FUNGI_PROJECT, the current folder, the checkout or the installed package.

    The first of these folders that has job files counts. Raises MissingFilesError if no folder has job files.
    """
    variable, this_file = os.environ.get("FUNGI_PROJECT"), Path(__file__).resolve()
    declared = [Path(variable)] if variable else []
    checkout, package = this_file.parents[3], this_file.parents[1]
    for folder in (*declared, Path.cwd(), checkout, package):
        if (folder / COMMON).is_file():
            return folder
    raise MissingFilesError(f"there is no {COMMON} in {Path.cwd()}. Run this in the folder of the project.")


def read_job_file(project: Path, name: str) -> JobFile:
    """Return a job by its name. Raises FungiError if no such job exists, or if it runs no command over the grid."""
    path = project / "jobs" / f"{name.removesuffix('.job')}.job"
    if not path.is_file():
        raise unknown_name("job", name, _names(project))
    text = path.read_text(encoding="utf-8")
    calls = _CALL.findall(text)
    if len(calls) != 1:
        raise FungiError(
            f"{path} does not run a command over the grid: it needs exactly one line `over_grid COMMAND FLAGS...`."
        )
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", text, flags=re.MULTILINE))
    kind, call = calls[0]
    return JobFile(name.removesuffix(".job"), path, directives, tuple(shlex.split(call)), kind == "landmarks")


def grid_job_files(project: Path) -> list[JobFile]:
    """Return all job files that run a command over the grid."""
    texts = {name: (project / "jobs" / f"{name}.job").read_text(encoding="utf-8") for name in _names(project)}
    return [read_job_file(project, name) for name, text in texts.items() if _CALL.search(text)]


def _names(project: Path) -> list[str]:
    """Return the names of all job files, sorted."""
    return sorted(str(path.relative_to(project / "jobs").with_suffix("")) for path in (project / "jobs").rglob("*.job"))
