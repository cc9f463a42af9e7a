"""The command that a job file runs over the grid: its settings for each element, and the files that it writes."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fungi.backbones.base import resolve_backbone
from fungi.commands import COMMANDS, STAGES, grid_command
from fungi.errors import FungiError
from fungi.grid.declaration import Grid
from fungi.grid.elements import Element, GridCall, arguments, elements
from fungi.grid.job_files import JobFile, grid_job_files, read_job_file
from fungi.grid.progress import LEFT, MISSING, QUEUED, Expected, Progress, progress_of
from fungi.grid.queue import Queue
from fungi.grid.records import Records
from fungi.grid.submission import CHAINED, Submittable, submittable
from fungi.views.plans import PUBLISHED

Jobs = Sequence[tuple[JobFile, GridCall]]


def call_of(words: Sequence[str], grid: Grid, *, landmarks: bool = False) -> GridCall:
    """Return the call that the words `COMMAND FLAGS...` describe, with the flags of the grid.

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

    One element is checked for each pair of backbone and dataset: the others of a pair are accepted if it is.
    """
    call = call_of(job.words, grid, landmarks=job.landmarks)
    settings_of = ElementSettings(job, call, grid)
    for element in {element.pair: element for element in elements(grid, call)}.values():
        settings_of(element)
    return call


class ElementSettings:
    """Settings of the call of a job file for each of its elements.

    A command line is parsed for the first element. For the others only the fields of the axes are replaced, which takes
    a hundredth of the time; the settings check these values as they check a command line.
    """

    def __init__(self, job: JobFile, call: GridCall, grid: Grid) -> None:
        self._job, self._call, self._grid = job, call, grid
        self._template: Any = None
        self._kept: dict[tuple[str, ...], Any] = {}

    def __call__(self, element: Element) -> Any:
        """Return the settings of an element; None for a report, whose input files do not exist yet.

        Raises FungiError with the job file and the element if the command does not accept it.
        """
        if self._call.stage == "report":
            return None
        try:
            return self._settings(element)
        except FungiError as error:
            raise FungiError(f"{error} In {self._job.path}, for {element}.") from None

    def _settings(self, element: Element) -> Any:
        if self._template is None or self._call.command == "projection":
            self._template = COMMANDS[self._call.command].parse(command_line(element, self._call, self._grid))
            return self._template
        axes = {"dataset": element.dataset, "backbone": element.backbone, "split": element.split}
        key = tuple(axes.values())
        if key not in self._kept:
            values = {field.name: getattr(self._template, field.name) for field in fields(self._template)}
            changed = {
                name: (text,) if isinstance(values[name], tuple) else text
                for name, text in axes.items()
                if text and name in values
            }
            self._kept[key] = replace(self._template, **changed)
        return self._kept[key]


def command_line(element: Element, call: GridCall, grid: Grid) -> list[str]:
    """Return the arguments of the command for an element."""
    return [*call.flags, *(_matrix(element, grid) if call.command == "projection" else arguments(element, call, grid))]


def chosen_jobs(
    grid: Grid, project: Path, names: Sequence[str] = (), stages: Sequence[str] = STAGES, *, check: bool = True
) -> list[tuple[JobFile, GridCall]]:
    """Return the jobs with these names; by default those submitted with the grid, or else those that ran below its
    root.

    check: raise FungiError now if a command does not accept an element. `progress_of_jobs` checks this in any case.
    """
    chosen = names or grid.jobs
    files = [read_job_file(project, name) for name in chosen] if chosen else grid_job_files(project)
    files = [job for job in files if grid_command(job.words[0]).stage in stages]
    calls = [(job, call_of(job.words, grid, landmarks=job.landmarks)) for job in files]
    if not chosen:
        calls = [(job, call) for job, call in calls if Records(grid.root, call).any()]
    return [(job, call_of_job(job, grid)) for job, _ in calls] if check else calls


def expected_files(grid: Grid, jobs: Jobs, stage: str) -> dict[tuple[str, str], list[Path]]:
    """Return the files that the jobs of a stage have to write, by pair of backbone and dataset."""
    chosen = [(job, call) for job, call in jobs if call.stage == stage]
    return _by_pair([_expected(ElementSettings(job, call, grid), elements(grid, call)) for job, call in chosen])


def _by_pair(expected: Sequence[Mapping[Element, Expected]]) -> dict[tuple[str, str], list[Path]]:
    """Return the files of all elements of each pair, without duplicates."""
    files: dict[tuple[str, str], dict[Path, None]] = {}
    for by_element in expected:
        splits = {(*element.pair, element.split): part for element, part in by_element.items()}  # equal for all shards
        for (backbone, dataset, _), part in splits.items():
            files.setdefault((backbone, dataset), {}).update(dict.fromkeys(part.paths))
    return {pair: list(paths) for pair, paths in files.items()}


def files_of(files: Mapping[tuple[str, str], list[Path]], pair: tuple[str, str]) -> list[Path]:
    """Return the files of a pair; for the empty pair, which stands for all pairs, the files of all."""
    chosen = files.values() if pair == ("", "") else [files.get(pair, [])]
    return [path for paths in chosen for path in paths]


def progress_of_jobs(grid: Grid, jobs: Jobs, queue: Queue) -> list[tuple[Submittable, list[Progress]]]:
    """Return the state of every element of every job that has elements in this grid, in the order of the stages."""
    shown = []
    expected: dict[str, list[Mapping[Element, Expected]]] = {}  # by stage
    for submitted in submittable(grid, jobs):
        call, points = submitted.call, submitted.points
        settings_of = ElementSettings(submitted.job, call, grid)
        if before := {"merge": "extraction", "report": "evaluation"}.get(call.stage):
            settings_of(points[0])  # checks the flags
            files = _by_pair(expected.get(before, []))
            own = {element: Expected(files_of(files, element.pair)) for element in points}
        else:
            own = _expected(settings_of, points)
        expected.setdefault(call.stage, []).append(own)
        shown.append((submitted, progress_of(grid, call, own, queue, points, submitted.places)))
    return _without_doomed(shown)


def _expected(settings_of: ElementSettings, points: Sequence[Element]) -> dict[Element, Expected]:
    """Return the files that each element has to write, and their settings. All shards of a split have the same."""
    kept: dict[tuple[str, ...], Expected] = {}
    expected = {}
    for element in points:
        key = (*element.pair, element.split)
        if key not in kept:
            settings = settings_of(element)
            kept[key] = Expected(settings.outputs(), settings)
        expected[element] = kept[key]
    return expected


def _without_doomed(shown: list[tuple[Submittable, list[Progress]]]) -> list[tuple[Submittable, list[Progress]]]:
    """Count elements as missing that wait for an element that failed.

    These are queued merges and evaluations of a pair that has elements left in an earlier stage. SLURM cancels them as
    soon as all elements that they wait for have ended.
    """
    left: set[tuple[str, str]] = set()
    for stage in CHAINED:
        for place, (submitted, progress) in enumerate(shown):
            if submitted.stage == stage and left:
                shown[place] = (submitted, [_doomed(item) if item.element.pair in left else item for item in progress])
        left |= {
            item.element.pair
            for submitted, progress in shown
            if submitted.stage == stage
            for item in progress
            if item.state in LEFT
        }
    return shown


def _doomed(progress: Progress) -> Progress:
    if progress.state != QUEUED or not progress.waits:
        return progress
    detail = f"job {progress.job} waits for what failed, and will be cancelled"
    return replace(progress, state=MISSING, detail=detail, job="", doomed=progress.job)


def first_unfinished_stage(
    shown: Sequence[tuple[Submittable, list[Progress]]],
) -> list[tuple[Submittable, list[int]]]:
    """Return the jobs of the first stage that has something left, with the indices that are left."""
    left = [(submitted, [p.index for p in progress if p.state in LEFT]) for submitted, progress in shown]
    left = [(submitted, indices) for submitted, indices in left if indices]
    stage = min((STAGES.index(submitted.stage) for submitted, _ in left), default=None)
    return [(submitted, indices) for submitted, indices in left if STAGES.index(submitted.stage) == stage]


def _matrix(element: Element, grid: Grid) -> list[str]:
    """Return the flags that draw the projection matrix which the extraction of this grid will read."""
    settings = COMMANDS["extract-gradients"].parse([*grid.flags_of("extract-gradients"), "--root", str(grid.root)])
    spec = resolve_backbone(element.backbone)
    size, path = settings.default_matrix(spec.projection_dim, spec.gradient_shape)
    return [
        *("--projection-dim", str(size), "--gradients-dim", str(spec.gradient_dim), "--output-path", str(path)),
        *("--kind", settings.projection_kind, "--layer-outputs", str(spec.gradient_shape[0])),
        *("--seed", str(settings.seed)),
    ]
