"""The commands that job files run over the grid: the settings and the output files of each element."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fungi.backbones.base import resolve_backbone
from fungi.commands import COMMANDS, STAGES, Stage, grid_command
from fungi.errors import FungiError
from fungi.grid.declaration import Grid
from fungi.grid.elements import Element, GridCall, arguments, elements_of
from fungi.grid.job_files import JobFile, grid_job_files, read_job_file
from fungi.grid.progress import MISSING, QUEUED, TO_SUBMIT, ExpectedFiles, Progress, progress_of
from fungi.grid.queue import Queue
from fungi.grid.records import Records
from fungi.grid.submission import CHAINED, GridJob, jobs_in_grid
from fungi.views.plans import PUBLISHED

Jobs = Sequence[tuple[JobFile, GridCall]]
EARLIER_STAGES: dict[Stage, Stage] = {"merge": "extraction", "report": "evaluation"}
"""Stage -> the earlier stage whose files it assembles (merge) or shows (report)."""


def call_of(words: Sequence[str], grid: Grid, *, landmarks: bool = False) -> GridCall:
    """Return the call for the words `COMMAND FLAGS...`, with the flags of the grid.

    Raises FungiError for a command that does not run over the grid.
    """
    command = grid_command(words[0] if words else "")
    call = GridCall(command.name, tuple(words[1:]), tuple(grid.flags_of(command.name)), landmarks)
    if call.stage == "extraction":
        settings = command.parse(call.flags)
        call = replace(call, features=settings.features, views=getattr(settings, "views", PUBLISHED))
    return call


def call_of_job(job: JobFile, grid: Grid) -> GridCall:
    """Return the call of a job file. Raises FungiError if the command does not accept an element of the grid.

    Only one element of each pair of backbone and dataset is checked, because the other elements of the pair differ only
    in split and shard.
    """
    call = call_of(job.words, grid, landmarks=job.landmarks)
    settings_of = ElementSettings(job, call, grid)
    for element in {element.pair: element for element in elements_of(grid, call)}.values():
        settings_of(element)
    return call


class ElementSettings:
    """Settings of the call of a job file for each of its elements.

    Only the command line of the first element is parsed. The settings of every other element are a copy of these
    settings with another dataset, backbone and split, which takes a hundredth of the time. The copy also checks its
    values.
    """

    def __init__(self, job: JobFile, call: GridCall, grid: Grid) -> None:
        self._job, self._call, self._grid = job, call, grid
        self._template: Any = None
        self._cache: dict[tuple[str, ...], Any] = {}

    def __call__(self, element: Element) -> Any:
        """Return the settings of an element; None for a report, whose input files do not exist yet.

        Raises FungiError with the job file and the element if the command does not accept the element.
        """
        if self._call.stage == "report":
            return None
        try:
            return self._settings(element)
        except FungiError as error:
            raise FungiError(f"{error} In {self._job.path}, for {element}.") from None

    def _settings(self, element: Element) -> Any:
        """Return the parsed settings of the first element, or a changed copy.

        For `projection`, the flags of every element are parsed, because they describe a matrix.
        """
        if self._template is None or self._call.command == "projection":
            self._template = COMMANDS[self._call.command].parse(command_line(element, self._call, self._grid))
            return self._template
        axes = {"dataset": element.dataset, "backbone": element.backbone, "split": element.split}
        key = tuple(axes.values())
        if key not in self._cache:
            values = {field.name: getattr(self._template, field.name) for field in fields(self._template)}
            changes = {
                name: (text,) if isinstance(values[name], tuple) else text
                for name, text in axes.items()
                if text and name in values
            }
            self._cache[key] = replace(self._template, **changes)
        return self._cache[key]


def command_line(element: Element, call: GridCall, grid: Grid) -> list[str]:
    """Return the arguments of the command for an element."""
    return [
        *call.flags,
        *(_projection_flags(element, grid) if call.command == "projection" else arguments(element, call, grid)),
    ]


def chosen_jobs(
    grid: Grid, project: Path, names: Sequence[str] = (), stages: Sequence[str] = STAGES, *, check: bool = True
) -> list[tuple[JobFile, GridCall]]:
    """Return the jobs with these names; without names, the jobs that were submitted with the grid.

    If the grid was not submitted, return the jobs that have run below its root.

    project: folder with the job files. stages: the stages whose jobs are returned.
    check: whether to raise FungiError now if a command does not accept an element. `progress_of_jobs` checks it anyway.
    """
    names = names or grid.jobs
    files = [read_job_file(project, name) for name in names] if names else grid_job_files(project)
    files = [job for job in files if grid_command(job.words[0]).stage in stages]
    calls = [(job, call_of(job.words, grid, landmarks=job.landmarks)) for job in files]
    if not names:
        calls = [(job, call) for job, call in calls if Records(grid.root, call).has_attempts()]
    return [(job, call_of_job(job, grid)) for job, _ in calls] if check else calls


def expected_files(grid: Grid, jobs: Jobs, stage: str) -> dict[tuple[str, str], list[Path]]:
    """Return the files that the jobs of a stage have to write, by pair of backbone and dataset."""
    jobs_of_stage = [(job, call) for job, call in jobs if call.stage == stage]
    return _by_pair(
        [_files_by_element(ElementSettings(job, call, grid), elements_of(grid, call)) for job, call in jobs_of_stage]
    )


def _by_pair(expected: Sequence[Mapping[Element, ExpectedFiles]]) -> dict[tuple[str, str], list[Path]]:
    """Return the files of all elements of each pair, without duplicates. expected: element -> files, for each job."""
    files: dict[tuple[str, str], dict[Path, None]] = {}
    for by_element in expected:
        # All shards of a split have the same files.
        by_split = {(*element.pair, element.split): element_files for element, element_files in by_element.items()}
        for (backbone, dataset, _), files_of_split in by_split.items():
            files.setdefault((backbone, dataset), {}).update(dict.fromkeys(files_of_split.paths))
    return {pair: list(paths) for pair, paths in files.items()}


def files_of(files: Mapping[tuple[str, str], list[Path]], pair: tuple[str, str]) -> list[Path]:
    """Return the files of a pair, or of all pairs for the pair `("", "")`."""
    selected = files.values() if pair == ("", "") else [files.get(pair, [])]
    return [path for paths in selected for path in paths]


def progress_of_jobs(grid: Grid, jobs: Jobs, queue: Queue) -> list[tuple[GridJob, list[Progress]]]:
    """Return the state of every element of every job that has elements in this grid, in the order of the stages."""
    job_progress = []
    expected: dict[str, list[Mapping[Element, ExpectedFiles]]] = {}  # stage -> files by element, for each job
    for grid_job in jobs_in_grid(grid, jobs):
        call, elements = grid_job.call, grid_job.elements
        settings_of = ElementSettings(grid_job.job, call, grid)
        if earlier_stage := EARLIER_STAGES.get(call.stage):
            settings_of(elements[0])  # checks the flags
            files = _by_pair(expected.get(earlier_stage, []))
            by_element = {element: ExpectedFiles(files_of(files, element.pair)) for element in elements}
        else:
            by_element = _files_by_element(settings_of, elements)
        expected.setdefault(call.stage, []).append(by_element)
        job_progress.append((grid_job, progress_of(grid, call, by_element, queue, elements, grid_job.places)))
    return _with_blocked_as_missing(job_progress)


def _files_by_element(settings_of: ElementSettings, elements: Sequence[Element]) -> dict[Element, ExpectedFiles]:
    """Return the files that each element has to write. All shards of a split share one `ExpectedFiles`."""
    by_split: dict[tuple[str, ...], ExpectedFiles] = {}
    expected = {}
    for element in elements:
        key = (*element.pair, element.split)
        if key not in by_split:
            settings = settings_of(element)
            by_split[key] = ExpectedFiles(settings.outputs(), settings)
        expected[element] = by_split[key]
    return expected


def _with_blocked_as_missing(
    job_progress: list[tuple[GridJob, list[Progress]]],
) -> list[tuple[GridJob, list[Progress]]]:
    """Change the state of queued elements to missing if they wait for an element that failed.

    Such elements are merges and evaluations of a pair that has failed or missing elements in an earlier stage. SLURM
    cancels such an element when all elements for which it waits have ended.
    """
    unfinished_pairs: set[tuple[str, str]] = set()
    for stage in CHAINED:
        indices_of_stage = [index for index, (grid_job, _) in enumerate(job_progress) if grid_job.stage == stage]
        for index in indices_of_stage:
            grid_job, progress = job_progress[index]
            job_progress[index] = (
                grid_job,
                [_as_missing_if_queued(item) if item.element.pair in unfinished_pairs else item for item in progress],
            )
        unfinished_pairs |= {
            item.element.pair
            for index in indices_of_stage
            for item in job_progress[index][1]
            if item.state in TO_SUBMIT
        }
    return job_progress


def _as_missing_if_queued(progress: Progress) -> Progress:
    """Return the progress of an element that waits for a failed element."""
    if progress.state != QUEUED or not progress.waits:
        return progress
    detail = f"job {progress.job} waits for a job that failed, and will be cancelled"
    return replace(progress, state=MISSING, detail=detail, job="", blocked_job=progress.job)


def first_unfinished_stage(
    job_progress: Sequence[tuple[GridJob, list[Progress]]],
) -> list[tuple[GridJob, list[int]]]:
    """Return the jobs of the first stage with elements to submit, and the indices of these elements."""
    indices_to_submit = [
        (grid_job, [item.index for item in progress if item.state in TO_SUBMIT]) for grid_job, progress in job_progress
    ]
    remaining = [(grid_job, indices) for grid_job, indices in indices_to_submit if indices]
    first = min((STAGES.index(grid_job.stage) for grid_job, _ in remaining), default=None)
    return [(grid_job, indices) for grid_job, indices in remaining if STAGES.index(grid_job.stage) == first]


def _projection_flags(element: Element, grid: Grid) -> list[str]:
    """Return the flags of `fungi projection` for the matrix that the extraction of this grid will read."""
    settings = COMMANDS["extract-gradients"].parse([*grid.flags_of("extract-gradients"), "--root", str(grid.root)])
    spec = resolve_backbone(element.backbone)
    size, path = settings.default_matrix(spec.projection_dim, spec.gradient_shape)
    return [
        *("--projection-dim", str(size), "--gradients-dim", str(spec.gradient_dim), "--output-path", str(path)),
        *("--kind", settings.projection_kind, "--layer-outputs", str(spec.gradient_shape[0])),
        *("--seed", str(settings.seed)),
    ]
