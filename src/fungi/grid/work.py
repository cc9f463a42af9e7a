"""What a job's command means on the grid: its flags read by the command's own parser, the files it writes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from fungi.backbones.base import BACKBONES
from fungi.errors import FungiError, unknown_name
from fungi.grid.declaration import Grid
from fungi.grid.elements import STAGE_OF, STAGES, Element, Work, arguments, elements
from fungi.grid.job_files import JobFile, grid_job_files, read_job_file
from fungi.grid.progress import Progress, Queue, progress_of
from fungi.grid.records import Records
from fungi.grid.submission import Submittable, submittable
from fungi.scoring.feature_settings import result_path
from fungi.settings import parse
from fungi.store.layout import EMBEDDINGS, Layout

_SETTINGS = {
    "projection": "fungi.extraction.generate_projection_matrix:ProjectionSettings",
    "extract": "fungi.extraction.stage:StageSettings",
    "extract-gradients": "fungi.extraction.extract_gradients:GradientSettings",
    "merge": "fungi.extraction.merge:MergeSettings",
    "knn": "fungi.scoring.knn_concat:KnnSettings",
    "linear": "fungi.scoring.train_linear_concat_grads:LinearSettings",
    "retrieval": "fungi.scoring.retrieval_eval:RetrievalSettings",
    "report": "fungi.cli.report:ReportSettings",
}
_TASK: dict[str, Callable[[Any], str]] = {
    "knn": lambda settings: settings.task_name("knn"),
    "linear": lambda settings: settings.task_name("linear"),
    "retrieval": lambda settings: "retrieval",
}


def work_of(call: Sequence[str], grid: Grid, *, landmarks: bool = False) -> Work:
    """The work of a call `COMMAND FLAGS...`; FungiError for a command that does not run over the grid."""
    if not call or call[0] not in STAGE_OF:
        raise unknown_name("command of the grid", call[0] if call else "", STAGE_OF)
    work = Work(call[0], tuple(call[1:]), tuple(grid.flags_of(call[0])), landmarks)
    if work.stage == "extraction":
        work = replace(work, features=_features(work))
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
        _parsed(work.command, line)
    return line


def chosen_jobs(
    grid: Grid, project: Path, names: Sequence[str] = (), stages: Sequence[str] = STAGES
) -> list[tuple[JobFile, Work]]:
    """The jobs of these names; else those submitted with the grid; else those that have run below its root."""
    wanted = names or grid.jobs
    files = [read_job_file(project, name) for name in wanted] if wanted else grid_job_files(project)
    files = [job for job in files if STAGE_OF.get(job.call[0]) in stages]
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
    settings = _parsed(work.command, command_line(element, work, grid))
    return (
        [settings.output_path] if work.stage == "projection" else [result_path(settings, _TASK[work.command](settings))]
    )


def feature_files(element: Element, work: Work, grid: Grid) -> list[Path]:
    """The feature files of an element's split."""
    layout = Layout(grid.root)
    return [
        layout.features(feature, element.dataset_name, element.backbone, element.split) for feature in work.features
    ]


def _features(work: Work) -> tuple[str, ...]:
    if work.command == "extract":
        _parsed(work.command, work.flags)
        return (EMBEDDINGS,)
    settings = _parsed(work.command, work.flags)
    return ((EMBEDDINGS,) if settings.with_embeddings else ()) + tuple(settings.objective)


def _matrix(element: Element, grid: Grid) -> list[str]:
    """The matrix that the extraction of this grid looks for: its size, kind and seed are those of the extraction."""
    settings = _parsed("extract-gradients", [*grid.flags_of("extract-gradients"), "--root", str(grid.root)])
    spec = BACKBONES[element.backbone]
    size, path = settings.usual_matrix(spec.projection_dim, spec.gradient_shape)
    return [
        *("--projection-dim", str(size), "--gradients-dim", str(spec.gradient_dim), "--output-path", str(path)),
        *("--kind", settings.projection_kind, "--layer-outputs", str(spec.gradient_shape[0])),
        *("--seed", str(settings.seed)),
    ]


def _parsed(command: str, flags: Sequence[str]) -> Any:
    module, _, name = _SETTINGS[command].partition(":")
    return parse(getattr(import_module(module), name), list(flags), program=f"fungi {command}", description="")
