"""What a job's call means on the grid: its flags read by the command's own parser, the files it writes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fungi.backbones.base import resolve_backbone
from fungi.commands import COMMANDS, STAGES, grid_command
from fungi.errors import FungiError
from fungi.grid.declaration import Grid
from fungi.grid.elements import Element, GridCall, arguments, elements
from fungi.grid.job_files import JobFile, grid_job_files, read_job_file
from fungi.grid.progress import LEFT, Expected, Progress, Queue, progress_of
from fungi.grid.records import Records
from fungi.grid.submission import Submittable, submittable
from fungi.views.plans import PUBLISHED

Jobs = Sequence[tuple[JobFile, GridCall]]


def call_of(words: Sequence[str], grid: Grid, *, landmarks: bool = False) -> GridCall:
    """A call `COMMAND FLAGS...`; FungiError for a command that does not run over the grid."""
    command = grid_command(words[0] if words else "")
    call = GridCall(command.name, tuple(words[1:]), tuple(grid.flags_of(command.name)), landmarks)
    if call.stage == "extraction":
        settings = command.parse(call.flags)
        call = replace(call, features=settings.features, views=getattr(settings, "views", PUBLISHED))
    return call


def call_of_job(job: JobFile, grid: Grid) -> GridCall:
    """The call of a job file, checked: the command's parser takes the command lines of its elements.

    Shards of one backbone and dataset differ in nothing that a parser could object to: one of them is tried.
    """
    call = call_of(job.words, grid, landmarks=job.landmarks)
    for element in {element.pair: element for element in elements(grid, call)}.values():
        try:
            command_line(element, call, grid)
        except FungiError as error:
            raise FungiError(f"{error} In {job.path}, for {element}.") from None
    return call


def command_line(element: Element, call: GridCall, grid: Grid) -> list[str]:
    """The arguments of the command for an element, as its own parser takes them."""
    line = [*call.flags, *(_matrix(element, grid) if call.command == "projection" else arguments(element, call, grid))]
    if call.stage != "report":  # its parser looks for the results, which come later
        COMMANDS[call.command].parse(line)
    return line


def chosen_jobs(
    grid: Grid, project: Path, names: Sequence[str] = (), stages: Sequence[str] = STAGES
) -> list[tuple[JobFile, GridCall]]:
    """The jobs of these names; else those submitted with the grid; else those that have run below its root."""
    wanted = names or grid.jobs
    files = [read_job_file(project, name) for name in wanted] if wanted else grid_job_files(project)
    files = [job for job in files if grid_command(job.words[0]).stage in stages]
    if not wanted:
        calls = [(job, call_of(job.words, grid, landmarks=job.landmarks)) for job in files]
        files = [job for job, call in calls if Records(grid.root, call).any()]
    return [(job, call_of_job(job, grid)) for job in files]


def expected_files(grid: Grid, jobs: Jobs, stage: str, pair: tuple[str, str] = ("", "")) -> list[Path]:
    """The files that the jobs of a stage have to give, of one pair of backbone and dataset or of all."""
    files: list[Path] = []
    for _, call in jobs:
        if call.stage == stage:
            # Shards of a split give the same files.
            chosen = {(*element.pair, element.split): element for element in elements(grid, call)}.values()
            for element in chosen:
                if pair in (("", ""), element.pair):
                    files += _expected(element, call, grid).paths
    return list(dict.fromkeys(files))


def progress_of_jobs(grid: Grid, jobs: Jobs, queue: Queue) -> list[tuple[Submittable, list[Progress]]]:
    """State of every element of every job that has some, in the order of the stages."""
    found = []
    for submitted in submittable(grid, jobs):
        call = submitted.call
        expected = {}
        for element in elements(grid, call):
            if call.stage == "merge":
                expected[element] = Expected(expected_files(grid, jobs, "extraction", element.pair))
            else:
                expected[element] = _expected(element, call, grid)
        found.append((submitted, progress_of(grid, call, expected, queue)))
    return found


def first_unfinished_stage(
    found: Sequence[tuple[Submittable, list[Progress]]],
) -> list[tuple[Submittable, list[int]]]:
    """Jobs of the first stage that has something left, with the indices that are left."""
    left = [(submitted, [p.index for p in progress if p.state in LEFT]) for submitted, progress in found]
    left = [(submitted, indices) for submitted, indices in left if indices]
    stage = min((STAGES.index(submitted.stage) for submitted, _ in left), default=None)
    return [(submitted, indices) for submitted, indices in left if STAGES.index(submitted.stage) == stage]


def _expected(element: Element, call: GridCall, grid: Grid) -> Expected:
    """The files that show an element to be done, and the settings that make them."""
    if call.stage == "report":
        return Expected([])
    settings = COMMANDS[call.command].parse(command_line(element, call, grid))
    return Expected(settings.outputs(), settings)


def _matrix(element: Element, grid: Grid) -> list[str]:
    """The matrix that the extraction of this grid looks for: its size, kind and seed are those of the extraction."""
    settings = COMMANDS["extract-gradients"].parse([*grid.flags_of("extract-gradients"), "--root", str(grid.root)])
    spec = resolve_backbone(element.backbone)
    size, path = settings.usual_matrix(spec.projection_dim, spec.gradient_shape)
    return [
        *("--projection-dim", str(size), "--gradients-dim", str(spec.gradient_dim), "--output-path", str(path)),
        *("--kind", settings.projection_kind, "--layer-outputs", str(spec.gradient_shape[0])),
        *("--seed", str(settings.seed)),
    ]
