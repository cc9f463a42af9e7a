"""Submit the missing steps of a plan as SLURM arrays. The evaluations run after all extractions have ended."""

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
from fungi.reproduction.plan import Plan, Step, StepSettings
from fungi.runtime.files import write_text_atomically
from fungi.runtime.log import logger

STEPS = "FUNGI_STEPS"
"""Environment variable of the jobs (jobs/reproduce/): path of the file with the steps."""


def submit(plan: Plan, settings: StepSettings, options: Sequence[str], gpu: str, environ: Mapping[str, str]) -> None:
    """Copy the code, and submit the missing steps. Queued jobs use the copy, so later edits do not affect them.

    options: further options for sbatch. gpu: type of GPU for which the number of shards is estimated. Raises FungiError
    if SLURM can't write logs below the root folder.
    """
    project = project_folder()
    log_pattern(settings.root.absolute())  # raises an error for an unusable folder before anything is written
    extractions, evaluations = plan.missing
    code = freeze(project, settings.root.absolute())
    environment = JobEnvironment(code, {}, default_python(environ), ClusterLimits.ask().max_array)
    (settings.root / "logs").mkdir(parents=True, exist_ok=True)
    dependencies: list[str] = []
    for name, steps in (("extraction", split_into_shards(extractions, gpu)), ("evaluation", evaluations)):
        arrays = prepare_arrays(name, steps, settings, environment, options, dependencies)
        dependencies = [sbatch(array, environment) for array in arrays]  # the ids of the jobs
        job_text = f", jobs {', '.join(dependencies)}" if steps else ""
        logger.info(f"{name}: {counted(len(steps), 'element')}{job_text}")


def split_into_shards(steps: Sequence[Step], gpu: str) -> list[Step]:
    """Return the extractions split into shards that take about an hour each on this type of GPU."""
    counts = [max(1, round(step.hours(gpu) * 3600 / SECONDS_PER_ELEMENT)) for step in steps]
    return [
        Step(step.command, (*step.flags, "--shard", f"{index + 1}/{count}"), step.backbone)
        for step, count in zip(steps, counts, strict=True)
        for index in range(count)
    ]


def prepare_arrays(
    name: str,
    steps: Sequence[Step],
    settings: StepSettings,
    environment: JobEnvironment,
    options: Sequence[str],
    dependencies: Sequence[str],
) -> list[Array]:
    """Write the file of steps; return the arrays to submit, each with at most `environment.max_array` steps.

    name: name of the job file. options: further options for sbatch.
    dependencies: ids of the jobs that must end before these jobs start.
    """
    if not steps:
        return []
    root = settings.root.absolute()
    steps_file, job_file = _write_steps(steps, root), str(environment.project / "jobs" / "reproduce" / f"{name}.job")
    # `afterany`: the evaluations run even if some extractions failed.
    dependency = [f"--dependency=afterany:{':'.join(dependencies)}"] if dependencies else []
    return [
        Array(
            [
                *("sbatch", f"--array={array_text(indices)}", f"--output={log_pattern(root)}", "--export=ALL"),
                *(*dependency, *options, job_file),
            ],
            {STEPS: str(steps_file), FIRST: str(first)},
        )
        for first, indices in chunks(range(len(steps)), environment.max_array)
    ]


def step_of_task(file: Path, environ: Mapping[str, str]) -> Step:
    """Return the step of this array task. Raises FungiError outside an array, or if the file can't be read."""
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        steps = [Step(command, tuple(flags), backbone) for command, flags, backbone in records]
    except (OSError, ValueError, TypeError) as error:
        raise FungiError(
            f"{file} can't be read as a list of steps ({error}). `fungi reproduce --submit` writes such files."
        ) from None
    # A long list of steps needs several arrays, so this array may have only a part of the steps.
    indices = chosen_indices({**environ, "FUNGI_PARTIAL": "1"}, len(steps))
    if len(steps) > 1 and len(indices) != 1:
        raise FungiError("--steps works only in the tasks of a SLURM array. To run tables here, give their names.")
    return steps[indices[0]]


def _write_steps(steps: Sequence[Step], root: Path) -> Path:
    """Write the steps to a JSON file named by the hash of its content; return its path."""
    text = json.dumps([[step.command, _with_absolute_paths(step.flags), step.backbone] for step in steps])
    path = root / "progress" / f"steps-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    write_text_atomically(path, text)
    return path


def _with_absolute_paths(flags: Sequence[str]) -> list[str]:
    """Return the flags with absolute paths of folders, for a process that starts in another folder."""
    last_flag, texts = "", []
    for text in flags:
        if text.startswith("--"):
            last_flag = text
            texts.append(text)
        else:
            texts.append(str(Path(text).absolute()) if last_flag in ("--root", "--data-dir") else text)
    return texts
