"""Submit the missing steps of a plan as SLURM arrays. Evaluations run after the extractions, even if some failed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fungi.errors import FungiError, counted
from fungi.grid.array import FIRST, array_text, chosen_indices, chunks
from fungi.grid.freezing import freeze
from fungi.grid.job_files import project_folder
from fungi.grid.submission import Array, ClusterLimits, JobEnvironment, default_python, log_pattern
from fungi.grid.submit import sbatch
from fungi.grid.throughput import SECONDS_PER_ELEMENT
from fungi.reproduction.plan import Home, Plan, Step
from fungi.runtime.files import write_text_atomically
from fungi.runtime.log import logger

STEPS = "FUNGI_STEPS"
"""Environment variable of the jobs (jobs/reproduce/): path of the file of steps."""


def submit(planned: Plan, home: Home, options: Sequence[str], gpu: str, environ: Mapping[str, str]) -> None:
    """Submit the missing steps. The code is copied first, so that later edits do not affect queued jobs."""
    project = project_folder()
    log_pattern(home.root.absolute())  # raises before anything is written
    extractions, evaluations = planned.missing
    code = freeze(project, home.root.absolute())
    jobs = JobEnvironment(code, {}, default_python(environ), ClusterLimits.ask().array)
    (home.root / "logs").mkdir(parents=True, exist_ok=True)
    dependencies: list[str] = []
    for name, steps in (("extraction", sharded(extractions, gpu)), ("evaluation", evaluations)):
        job_ids = [sbatch(array, jobs) for array in arrays(name, steps, home, jobs, options, dependencies)]
        dependencies = job_ids or dependencies
        logger.info(
            f"{name}: {counted(len(steps), 'element')}" + (f", jobs {', '.join(dependencies)}" if steps else "")
        )


def sharded(steps: Sequence[Step], gpu: str) -> list[Step]:
    """Return the extractions split into shards that take about an hour each."""
    counts = [max(1, round(step.hours(gpu) * 3600 / SECONDS_PER_ELEMENT)) for step in steps]
    return [
        Step(step.command, (*step.flags, "--shard", f"{index + 1}/{count}"), step.backbone)
        for step, count in zip(steps, counts, strict=True)
        for index in range(count)
    ]


def arrays(
    name: str, steps: Sequence[Step], home: Home, jobs: JobEnvironment, options: Sequence[str], after: Sequence[str]
) -> list[Array]:
    """Return the calls of sbatch for some steps: one call per `jobs.max_array` steps.

    after: ids of the jobs that must end before these jobs start.
    """
    if not steps:
        return []
    file, calls = _write(steps, home.root.absolute()), []
    for first, part in chunks(range(len(steps)), jobs.max_array):
        command = ["sbatch", f"--array={array_text(part)}", f"--output={log_pattern(home.root.absolute())}"]
        command += ["--export=ALL", *([f"--dependency=afterany:{':'.join(after)}"] if after else [])]
        job_file = str(jobs.project / "jobs" / "reproduce" / f"{name}.job")
        calls.append(Array([*command, *options, job_file], {STEPS: str(file), FIRST: str(first)}))
    return calls


def step_of_task(file: Path, environ: Mapping[str, str]) -> Step:
    """Return the step of this array task. Raises FungiError outside an array, or if the file can't be read."""
    try:
        lines = json.loads(file.read_text(encoding="utf-8"))
        steps = [Step(command, tuple(flags), backbone) for command, flags, backbone in lines]
    except (OSError, ValueError, TypeError) as error:
        raise FungiError(
            f"{file} can't be read as a list of steps ({error}). `fungi reproduce --submit` writes such files."
        ) from None
    # One call of sbatch may be only a part of the list of steps, so the array may be shorter than the list.
    indices = chosen_indices({**environ, "FUNGI_PARTIAL": "1"}, len(steps))
    if len(steps) > 1 and len(indices) != 1:
        raise FungiError("--steps works only in the tasks of a SLURM array. To run tables here, give their names.")
    return steps[indices[0]]


def _write(steps: Sequence[Step], root: Path) -> Path:
    """Write the steps to a JSON file named by the hash of its content; return its path."""
    text = json.dumps([[step.command, list(_absolute(step.flags)), step.backbone] for step in steps])
    path = root / "progress" / f"steps-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    write_text_atomically(path, text)
    return path


def _absolute(flags: Sequence[str]) -> list[str]:
    """Return the flags with absolute paths, for a process that starts in another folder."""
    takes_folders, words = False, []
    for flag in flags:
        takes_folders = flag in ("--root", "--data-dir") if flag.startswith("--") else takes_folders
        words.append(flag if flag.startswith("--") or not takes_folders else str(Path(flag).absolute()))
    return words
