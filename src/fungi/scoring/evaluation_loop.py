"""The loop that all evaluations share: runs x combinations, saved one by one, what is done already left out.

The loop opens features, reduces them, says what was odd and saves; a scorer turns reduced features into scores.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64, Integer
from torch import Tensor

from fungi.combine.names import Combination, name_of
from fungi.combine.pca import Reducer, Reduction, reduced, repeatable_blocks
from fungi.combine.source import FeatureSource
from fungi.errors import FungiError
from fungi.results.result_file import ResultFile, Run, Scores
from fungi.runtime.log import logger, progress
from fungi.runtime.tracking import track
from fungi.scoring.feature_files import Splits, open_splits, provenance, provenances_of
from fungi.scoring.feature_settings import FeatureSettings
from fungi.scoring.fitted_rows import of_seen_rows
from fungi.store.foreign import format_of, split_key
from fungi.store.joining import check_runs
from fungi.store.provenance import Provenance
from fungi.store.reading import read_class_names, read_sample_ids


@runtime_checkable
class Scorer(Protocol):
    """One run, ready to score any combination.

    test_targets: labels of the scored rows, kept beside the predictions. sources: all features that it reads, those
    that PCA is fitted on first. warnings: what is odd in the labels; the loop looks at the features.
    """

    test_targets: Integer[np.ndarray, " q"]

    @property
    def sources(self) -> Sequence[FeatureSource]:
        """Return the features."""

    def score(self, features: "Combined") -> Scores:
        """Return scores of one combination."""

    def warnings(self) -> list[str]:
        """Return what was odd, besides the features."""


class Combined:
    """The features of one combination, concatenated and reduced when a scorer asks for them.

    names: of the features; reduction: fitted on the scorer's first source; logged if PCA was skipped.
    """

    def __init__(self, names: Combination, reducer: Reducer, announce: Callable[[Reduction], None]) -> None:
        self.names = names
        self._reducer = reducer
        self._announce = announce

    @cached_property
    def reduction(self) -> Reduction:
        """Return how they are reduced."""
        reduction = self._reducer.fit(self.names)
        self._announce(reduction)
        return reduction

    def rows(self, source: FeatureSource) -> Float[Tensor, "n r"]:
        """Return all rows of a source."""
        return reduced(source, self.reduction, self._reducer.device)

    def blocks(self, source: FeatureSource) -> Callable[[], Iterable[tuple[slice, Float32[Tensor, "b r"]]]]:
        """Return the same rows block by block; they can be read again and again."""
        return repeatable_blocks(source, self.reduction, self._reducer.device)

    def moments(self) -> tuple[Float64[Tensor, " f"], Float64[Tensor, "f f"]]:
        """Return mean and centred Gram matrix of all features of the run, before any reduction."""
        return self._reducer.moments


@dataclass(frozen=True)
class Task:
    """One run of an evaluation: an extraction, and a few-shot draw where shots are drawn."""

    splits: Splits
    draw: int | None
    run: Run

    @property
    def provenances(self) -> list[Provenance]:
        """Return the provenances of the features, of those that have one."""
        return provenances_of(self.splits)


def evaluate(
    settings: FeatureSettings,
    *,
    combinations: Callable[[Sequence[str]], list[Combination]],
    prepare: Callable[[Task], Scorer],
    splits: Callable[[Path], Sequence[str]] = lambda _: ("train", "test"),
    draws: Sequence[int | None] = (None,),
    name: str | None = None,
) -> dict[str, Any]:
    """Evaluate what is missing in the result file of `name`, the settings' own if absent; return its content.

    combinations: features -> the combinations to score; prepare: reads labels and opens sources, once per run that
    has something missing; splits: root -> fields of the settings that name splits, the one to fit on first.
    """
    tasks = _tasks(settings, splits, draws)
    result = settings.open_result([task.run for task in tasks], task=name, provenances=tasks[0].provenances)
    for task in tasks:
        chosen = combinations(list(next(iter(task.splits.values())).arrays))
        missing = [combination for combination in chosen if name_of(combination) not in task.run.results]
        if missing:
            _evaluate_run(settings, task, missing, prepare(task), result)
    result.finish()
    logger.info("wrote %s", result.path)
    return result.content()


def _tasks(
    settings: FeatureSettings, splits: Callable[[Path], Sequence[str]], draws: Sequence[int | None]
) -> list[Task]:
    opened = {root: open_splits(settings, root, splits(root)) for root in settings.root}
    check_runs(
        {str(root): {name: files.arrays for name, files in splits_of.items()} for root, splits_of in opened.items()}
    )
    return [
        Task(splits_of, draw, Run(label={"root": str(root), "few_shot_seed": draw}, features=provenance(splits_of)))
        for root, splits_of in opened.items()
        for draw in draws
    ]


def _evaluate_run(
    settings: FeatureSettings, task: Task, missing: list[Combination], scorer: Scorer, result: ResultFile
) -> None:
    _keep_rows(result, scorer.test_targets, task)
    for text in of_seen_rows({split: files.arrays for split, files in task.splits.items()}):
        note(task.run, text)
    reducer, announce = Reducer(scorer.sources[0], settings.reduced_dim, settings.compute_device), Announcer()
    for combination in progress(missing, label=result.task, unit="combination"):
        features = Combined(combination, reducer, announce)
        scores = scorer.score(features)
        if "reduction" in vars(features):  # looked at by the scorer
            scores = scores | {"pca": features.reduction.describe()}
        for text in [*scorer.warnings(), *(text for source in scorer.sources for text in source.warnings())]:
            note(task.run, text)
        result.add(task.run, name_of(combination), scores)
        track({f"{name_of(combination)}/{metric}": value for metric, value in scores.items()})


def note(run: Run, text: str) -> None:
    """Log a warning once, and record it in the result."""
    if text not in run.warnings:
        run.warnings.append(text)
        logger.warning("warning: %s", text)


def _keep_rows(result: ResultFile, targets: Integer[np.ndarray, " q"], task: Task) -> None:
    """Keep labels, sample ids and class names of the scored rows, the latter two where the feature files hold them.

    Runs are averaged, so they have to score the same rows.
    """
    labels, path = targets.tolist(), task.splits["test"].targets_path
    if result.facts.setdefault("test_targets", labels) != labels:
        raise FungiError(
            f"the labels in {path.parent} are not those of the other --root folders: a mean over different rows says"
            " nothing."
        )
    file = split_key(path)[0]  # labels of explicit files may be named as FILE:KEY, and lie in files of other formats
    if format_of(file) != "HDF5":
        return
    for name, read in (("sample_ids", read_sample_ids), ("class_names", read_class_names)):
        if texts := read(file):
            result.facts[name] = texts


def warnings_of_labels(train: Integer[np.ndarray, " n"], test: Integer[np.ndarray, " q"]) -> list[str]:
    """Return warnings for test labels that no train row has, and for rows of a single class, which are always right."""
    texts = []
    if len(np.unique(train)) == 1:
        texts.append(f"all train rows have the same label ({train[0]}): nothing else can be predicted.")
    elif len(test) and len(np.unique(test)) == 1:
        texts.append(f"all scored rows have the same label ({test[0]}): the score says nothing of the other classes.")
    absent = np.setdiff1d(test, train)
    if len(absent):
        rows = int(np.isin(test, absent).sum())
        shown = ", ".join(map(str, absent[:10])) + (", ..." if len(absent) > 10 else "")
        texts.append(
            f"{len(absent)} labels of the scored rows have no train row ({shown}): {rows} rows can't be right."
        )
    return texts


class Announcer:
    """Logs where PCA does not do what was asked; each reason once, as it is the same for many combinations."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def __call__(self, reduction: Reduction) -> None:
        """Log the reason, if there is one and it is new."""
        reason = reduction.skipped
        if reason is None and reduction.dim < reduction.pca_dim:
            reason = f"only {reduction.dim} of {reduction.pca_dim} components have any variance"
        if reason is not None and reason not in self._logged:
            self._logged.add(reason)
            what = "no PCA" if reduction.skipped else "fewer components"
            logger.info("%s for %s: %s", what, name_of(reduction.names), reason)
