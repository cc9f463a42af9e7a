"""What a job's command means on the grid: its flags read by the command's own parser, the files it writes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fungi.backbones.base import BACKBONES
from fungi.commands import COMMANDS, STAGES, grid_command
from fungi.errors import FungiError
from fungi.grid.declaration import Grid
from fungi.grid.elements import Element, Work, arguments, elements
from fungi.grid.job_files import JobFile, grid_job_files, read_job_file
from fungi.grid.progress import Progress, Queue, progress_of
from fungi.grid.records import Records
from fungi.grid.submission import Submittable, submittable
from fungi.store.layout import Layout


def work_of(call: Sequence[str], grid: Grid, *, landmarks: bool = False) -> Work:
    """The work of a call `COMMAND FLAGS...`; FungiError for a command that does not run over the grid."""
    command = grid_command(call[0] if call else "")
    work = Work(command.name, tuple(call[1:]), tuple(grid.flags_of(command.name)), landmarks)
    if work.stage == "extraction":
        work = replace(work, features=command.parse(work.flags).features)
    return work


def work_of_job(job: JobFile, grid: Grid) -> Work:
    """The work of a job file, checked: the command's parser takes the command lines of its elements.

    Shards of one backbone and dataset differ in nothing that a parser could object to: one of them is tried.
    """
    work = work_of(job.call, grid, landmarks=job.landmarks)
    for element in {(element.backbone, element.dataset): element for element in elements(grid, work)}.values():
        try:
            command_line(element, work, grid)
        except FungiError as error:
            raise FungiError(f"{error} In {job.path}, for {element}.") from None
    return work


def command_line(element: Element, work: Work, grid: Grid) -> list[str]:
    """The arguments of the command for an element, as its own parser takes them."""
    line = [*work.flags, *(_matrix(element, grid) if work.command == "projection" else arguments(element, work, grid))]
    if work.command != "report":  # its parser looks for the results, which come later
        COMMANDS[work.command].parse(line)
    return line


def chosen_jobs(
    grid: Grid, project: Path, names: Sequence[str] = (), stages: Sequence[str] = STAGES
) -> list[tuple[JobFile, Work]]:
    """The jobs of these names; else those submitted with the grid; else those that have run below its root."""
    wanted = names or grid.jobs
    files = [read_job_file(project, name) for name in wanted] if wanted else grid_job_files(project)
    files = [job for job in files if grid_command(job.call[0]).stage in stages]
    if not wanted:
        works = [(job, work_of(job.call, grid, landmarks=job.landmarks)) for job in files]
        files = [job for job, work in works if Records(grid.root, work).any()]
    return [(job, work_of_job(job, grid)) for job in files]


def expected_files(grid: Grid, jobs: Sequence[tuple[JobFile, Work]]) -> list[Path]:
    """The feature files that the extraction jobs among `jobs` have to give."""
    works = [work for _, work in jobs if work.stage == "extraction"]
    files = [path for work in works for element in elements(grid, work) for path in feature_files(element, work, grid)]
    return list(dict.fromkeys(files))


def progress_of_jobs(grid: Grid, jobs: Sequence[tuple[JobFile, Work]]) -> list[tuple[Submittable, list[Progress]]]:
    """State of every element of every job that has some, in the order of the stages."""
    queue, expected = Queue.ask(), expected_files(grid, jobs)
    found = []
    for submitted in submittable(grid, jobs):
        work = submitted.work
        made = {element: _outputs(element, work, grid, expected) for element in elements(grid, work)}
        found.append((submitted, progress_of(grid, work, made, queue)))
    return found


def _outputs(element: Element, work: Work, grid: Grid, expected: Sequence[Path]) -> list[Path]:
    """The files that show an element to be done."""
    if work.stage == "extraction":
        return feature_files(element, work, grid)
    if work.stage in ("merge", "report"):
        return list(expected) if work.stage == "merge" else []
    return COMMANDS[work.command].parse(command_line(element, work, grid)).outputs()


def feature_files(element: Element, work: Work, grid: Grid) -> list[Path]:
    """The feature files of an element's split."""
    layout = Layout(grid.root)
    return [
        layout.features(feature, element.dataset_name, element.backbone, element.split) for feature in work.features
    ]


def _matrix(element: Element, grid: Grid) -> list[str]:
    """The matrix that the extraction of this grid looks for: its size, kind and seed are those of the extraction."""
    settings = COMMANDS["extract-gradients"].parse([*grid.flags_of("extract-gradients"), "--root", str(grid.root)])
    spec = BACKBONES[element.backbone]
    size, path = settings.usual_matrix(spec.projection_dim, spec.gradient_shape)
    return [
        *("--projection-dim", str(size), "--gradients-dim", str(spec.gradient_dim), "--output-path", str(path)),
        *("--kind", settings.projection_kind, "--layer-outputs", str(spec.gradient_shape[0])),
        *("--seed", str(settings.seed)),
    ]
