"""The missing steps of a plan as two SLURM arrays: extractions, then evaluations, whatever became of the former."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fungi.errors import FungiError
from fungi.grid.array import FIRST, array_text, chosen_indices, chunks
from fungi.grid.freezing import freeze
from fungi.grid.job_files import project_folder
from fungi.grid.submission import Array, ClusterLimits, JobEnvironment, default_python, log_pattern
from fungi.grid.submit import sbatch
from fungi.grid.throughput import SECONDS_PER_ELEMENT
from fungi.reproduction.plan import Home, Plan, Step
from fungi.runtime.files import write_whole
from fungi.runtime.log import logger

STEPS = "FUNGI_STEPS"
"""The file of steps, in the environment of the jobs (jobs/reproduce/)."""


def submit(planned: Plan, home: Home, options: Sequence[str], gpu: str, environ: Mapping[str, str]) -> None:
    """Submit what is missing. The code is copied first: later edits change nothing that is queued."""
    project = project_folder()
    log_pattern(home.root.absolute())  # refused before anything is written
    extractions, evaluations = planned.missing
    code = freeze(project, home.root.absolute())
    jobs = JobEnvironment(code, {}, default_python(environ), ClusterLimits.ask().array)
    (home.root / "logs").mkdir(parents=True, exist_ok=True)
    after: list[str] = []
    for name, steps in (("extraction", sharded(extractions, gpu)), ("evaluation", evaluations)):
        after = [sbatch(array, jobs) for array in arrays(name, steps, home, jobs, options, after)] or after
        logger.info(f"{name}: {len(steps)} elements" + (f", jobs {', '.join(after)}" if steps else ""))


def sharded(steps: Sequence[Step], gpu: str) -> list[Step]:
    """Extractions in parts that take about an hour each."""
    counts = [max(1, round(step.hours(gpu) * 3600 / SECONDS_PER_ELEMENT)) for step in steps]
    return [
        Step(step.command, (*step.flags, "--shard", f"{index + 1}/{count}"), step.backbone)
        for step, count in zip(steps, counts, strict=True)
        for index in range(count)
    ]


def arrays(
    name: str, steps: Sequence[Step], home: Home, jobs: JobEnvironment, options: Sequence[str], after: Sequence[str]
) -> list[Array]:
    """The calls of sbatch for some steps; several where there are more than an array may have."""
    if not steps:
        return []
    file, found = _write(steps, home.root.absolute()), []
    for first, part in chunks(range(len(steps)), jobs.max_array):
        command = ["sbatch", f"--array={array_text(part)}", f"--output={log_pattern(home.root.absolute())}"]
        command += ["--export=ALL", *([f"--dependency=afterany:{':'.join(after)}"] if after else [])]
        job_file = str(jobs.project / "jobs" / "reproduce" / f"{name}.job")
        found.append(Array([*command, *options, job_file], {STEPS: str(file), FIRST: str(first)}))
    return found


def step_of_task(file: Path, environ: Mapping[str, str]) -> Step:
    """The step of this array task; FungiError outside of an array, and for a file that can't be read."""
    try:
        lines = json.loads(file.read_text(encoding="utf-8"))
        steps = [Step(command, tuple(flags), backbone) for command, flags, backbone in lines]
    except (OSError, ValueError, TypeError) as error:
        raise FungiError(f"{file} is no list of steps ({error}). `fungi reproduce --submit` writes it.") from None
    indices = chosen_indices({**environ, "FUNGI_PARTIAL": "1"}, len(steps))
    if len(indices) != 1 < len(steps):
        raise FungiError("--steps is for the tasks of a SLURM array. Name tables to run them here.")
    return steps[indices[0]]


def _write(steps: Sequence[Step], root: Path) -> Path:
    """The steps as JSON; the file is named by its content."""
    text = json.dumps([[step.command, list(_absolute(step.flags)), step.backbone] for step in steps])
    path = root / "progress" / f"steps-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    write_whole(path, text)
    return path


def _absolute(flags: Sequence[str]) -> list[str]:
    """The flags for a process that starts in another folder."""
    folders, found = False, []
    for flag in flags:
        folders = flag in ("--root", "--data-dir") if flag.startswith("--") else folders
        found.append(flag if flag.startswith("--") or not folders else str(Path(flag).absolute()))
    return found
