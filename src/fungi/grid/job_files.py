"""Job files as data: their #SBATCH directives and the command that they run over the grid.

A job file is shell, and runs by itself. What the submitter has to know of it stands in two kinds of lines:

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

    name: its path below jobs/, without the suffix. words: those after `over_grid` or `over_landmarks`.
    """

    name: str
    path: Path
    directives: dict[str, str]
    words: tuple[str, ...]
    landmarks: bool


def project_folder() -> Path:
    """Return the folder with the job files: $FUNGI_PROJECT, the current folder, the checkout of this code, or else
    the installed package."""
    named, here = os.environ.get("FUNGI_PROJECT"), Path(__file__).resolve()
    for folder in (*([Path(named)] if named else []), Path.cwd(), here.parents[3], here.parents[1]):
        if (folder / COMMON).is_file():
            return folder
    raise MissingFilesError(f"{COMMON} is not below {Path.cwd()}. Run this in the folder of the project.")


def read_job_file(project: Path, name: str) -> JobFile:
    """Return a job by its name; FungiError for one that is not there, or that does not run over the grid."""
    path = project / "jobs" / f"{name.removesuffix('.job')}.job"
    if not path.is_file():
        raise unknown_name("job", name, _names(project))
    text = path.read_text(encoding="utf-8")
    calls = _CALL.findall(text)
    if len(calls) != 1:
        raise FungiError(f"{path} does not run one command over the grid (a line `over_grid COMMAND ...`).")
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", text, flags=re.MULTILINE))
    kind, words = calls[0]
    return JobFile(name.removesuffix(".job"), path, directives, tuple(shlex.split(words)), kind == "landmarks")


def grid_job_files(project: Path) -> list[JobFile]:
    """Return all jobs that run over the grid."""
    texts = {name: (project / "jobs" / f"{name}.job").read_text(encoding="utf-8") for name in _names(project)}
    return [read_job_file(project, name) for name, text in texts.items() if _CALL.search(text)]


def _names(project: Path) -> list[str]:
    return sorted(str(path.relative_to(project / "jobs").with_suffix("")) for path in (project / "jobs").rglob("*.job"))
