"""The loop of all evaluations: score every missing combination of every run, and save the scores of each combination.

The loop opens and reduces features, logs warnings and saves scores. A scorer turns reduced features into scores.
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
from fungi.errors import FungiError, counted
from fungi.results.result_file import ResultFile, Run, Scores
from fungi.runtime.log import logger, progress
from fungi.runtime.tracking import track
from fungi.scoring.feature_files import Splits, open_splits, provenance, provenances_of
from fungi.scoring.feature_settings import FeatureSettings
from fungi.scoring.fitted_rows import warnings_of_fitted_rows
from fungi.store.foreign import format_of, split_key
from fungi.store.joining import check_runs
from fungi.store.provenance import Provenance
from fungi.store.reading import read_class_names, read_sample_ids


@runtime_checkable
class Scorer(Protocol):
    """Object that scores combinations of the features of one run.

    test_targets: labels of the scored rows, which are saved with the predictions.
    sources: all features that the scorer reads. PCA is fitted on the first source.
    """

    test_targets: Integer[np.ndarray, " q"]

    @property
    def sources(self) -> Sequence[FeatureSource]:
        """Return the features that the scorer reads."""

    def score(self, features: "CombinedFeatures") -> Scores:
        """Return the scores of one combination."""

    def warnings(self) -> list[str]:
        """Return warnings about the labels. Warnings about features come from the sources."""


class CombinedFeatures:
    """The features of one combination. They are concatenated and reduced when a scorer reads them.

    names: features of the combination. reducer: fits PCA on the first source of the scorer. log_reduction: function
    that logs why PCA was skipped, or why it has fewer components than the settings ask for.
    """

    def __init__(self, names: Combination, reducer: Reducer, log_reduction: Callable[[Reduction], None]) -> None:
        self.names = names
        self._reducer = reducer
        self._log_reduction = log_reduction

    @cached_property
    def reduction(self) -> Reduction:
        """The PCA of the combination, which is fitted on first use."""
        reduction = self._reducer.fit(self.names)
        self._log_reduction(reduction)
        return reduction

    def rows(self, source: FeatureSource) -> Float[Tensor, "n r"]:
        """Return all rows of a source, reduced."""
        return reduced(source, self.reduction, self._reducer.device)

    def blocks(self, source: FeatureSource) -> Callable[[], Iterable[tuple[slice, Float32[Tensor, "b r"]]]]:
        """Return a function that yields the reduced rows block by block. The function can be called several times."""
        return repeatable_blocks(source, self.reduction, self._reducer.device)

    def moments(self) -> tuple[Float64[Tensor, " f"], Float64[Tensor, "f f"]]:
        """Return mean and centred Gram matrix of all features of the run, without reduction."""
        return self._reducer.moments


@dataclass(frozen=True)
class EvaluationRun:
    """One run of an evaluation: the features of one extraction, with one few-shot draw.

    splits: the feature files of each split. few_shot_seed: seed of the draw; None if no rows are drawn at random.
    entry: entry of the run in the result file.
    """

    splits: Splits
    few_shot_seed: int | None
    entry: Run

    @property
    def provenances(self) -> list[Provenance]:
        """Return the provenances of the features that have a provenance."""
        return provenances_of(self.splits)


def evaluate(
    settings: FeatureSettings,
    *,
    combinations: Callable[[Sequence[str]], list[Combination]],
    prepare: Callable[[EvaluationRun], Scorer],
    splits: Callable[[Path], Sequence[str]] = lambda _: ("train", "test"),
    few_shot_seeds: Sequence[int | None] = (None,),
    name: str | None = None,
) -> dict[str, Any]:
    """Score the combinations that are missing in a result file, and return the content of the file.

    combinations: function that returns the combinations to score, from the names of the features.
    prepare: function that returns the scorer of a run; called once for each unfinished run.
    splits: function that returns the splits to open below a root; the first split is fitted on.
    few_shot_seeds: seeds of the few-shot draws. name: task of the result file; default: the task of the settings.
    """
    runs = _runs(settings, splits, few_shot_seeds)
    result = settings.open_result([run.entry for run in runs], task=name, provenances=runs[0].provenances)
    for run in runs:
        combinations_of_run = combinations(list(next(iter(run.splits.values())).arrays))
        missing = [combination for combination in combinations_of_run if name_of(combination) not in run.entry.results]
        if missing:
            _evaluate_run(settings, run, missing, prepare(run), result)
    result.finish()
    logger.info("wrote %s", result.path)
    return result.content()


def _runs(
    settings: FeatureSettings, splits: Callable[[Path], Sequence[str]], few_shot_seeds: Sequence[int | None]
) -> list[EvaluationRun]:
    """Return a run for each root and few-shot seed."""
    splits_by_root = {root: open_splits(settings, root, splits(root)) for root in settings.root}
    check_runs(
        {
            str(root): {name: files.arrays for name, files in splits_of_root.items()}
            for root, splits_of_root in splits_by_root.items()
        }
    )
    return [
        EvaluationRun(
            splits_of_root,
            seed,
            Run(label={"root": str(root), "few_shot_seed": seed}, features=provenance(splits_of_root)),
        )
        for root, splits_of_root in splits_by_root.items()
        for seed in few_shot_seeds
    ]


def _evaluate_run(
    settings: FeatureSettings, run: EvaluationRun, missing: list[Combination], scorer: Scorer, result: ResultFile
) -> None:
    """Score the missing combinations of a run, and save the scores of each combination."""
    _save_labels(result, scorer.test_targets, run)
    for text in warnings_of_fitted_rows({split: files.arrays for split, files in run.splits.items()}):
        _warn_once(run.entry, text)
    reducer, log_reduction = Reducer(scorer.sources[0], settings.reduced_dim, settings.compute_device), ReductionLog()
    for combination in progress(missing, label=result.task, unit="combination"):
        features = CombinedFeatures(combination, reducer, log_reduction)
        scores = scorer.score(features)
        # `reduction` is a cached property, so `vars` has the entry only if the scorer used the PCA.
        if "reduction" in vars(features):
            scores = scores | {"pca": features.reduction.describe()}
        for text in [*scorer.warnings(), *(text for source in scorer.sources for text in source.warnings())]:
            _warn_once(run.entry, text)
        result.add(run.entry, name_of(combination), scores)
        track({f"{name_of(combination)}/{metric}": value for metric, value in scores.items()})


def _warn_once(entry: Run, text: str) -> None:
    """Log a warning and record it in the result, unless the run already has this warning."""
    if text not in entry.warnings:
        entry.warnings.append(text)
        logger.warning("warning: %s", text)


def _save_labels(result: ResultFile, targets: Integer[np.ndarray, " q"], run: EvaluationRun) -> None:
    """Save the labels of the scored rows, and their sample ids and class names if the feature file contains them.

    Raises FungiError if the runs score different rows, because the scores of several runs are averaged.
    """
    labels, path = targets.tolist(), run.splits["test"].targets_path
    if result.facts.setdefault("test_targets", labels) != labels:
        raise FungiError(
            f"the labels in {path.parent} differ from those of the other --root folders, so scores can't be averaged."
            " Give folders with features of the same rows."
        )
    file, _ = split_key(path)  # explicit labels can be FILE:KEY and in other formats
    if format_of(file) != "HDF5":
        return
    for name, read in (("sample_ids", read_sample_ids), ("class_names", read_class_names)):
        if values := read(file):
            result.facts[name] = values


def warnings_of_labels(train: Integer[np.ndarray, " n"], test: Integer[np.ndarray, " q"]) -> list[str]:
    """Return warnings if a test label has no train row, or if all rows have the same label."""
    texts = []
    if len(np.unique(train)) == 1:
        texts.append(f"all train rows have the same label ({train[0]}): no other label can be predicted.")
    elif len(test) and len(np.unique(test)) == 1:
        texts.append(f"all scored rows have the same label ({test[0]}): the score does not measure the other classes.")
    absent = np.setdiff1d(test, train)
    if len(absent):
        rows = int(np.isin(test, absent).sum())
        labels = ", ".join(map(str, absent[:10])) + (", ..." if len(absent) > 10 else "")
        texts.append(
            f"{counted(len(absent), 'label')} without a train row ({labels}): {counted(rows, 'scored row')} can't be"
            " predicted correctly."
        )
    return texts


class ReductionLog:
    """Function that logs why PCA was skipped, or why it has fewer components. Each reason is logged only once."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def __call__(self, reduction: Reduction) -> None:
        """Log the reason, unless it is already logged."""
        reason = reduction.skipped
        if reason is None and reduction.dim < reduction.pca_dim:
            reason = f"only {reduction.dim} of {reduction.pca_dim} components have any variance"
        if reason is not None and reason not in self._logged:
            self._logged.add(reason)
            outcome = "no PCA" if reduction.skipped else "fewer components"
            logger.info("%s for %s: %s", outcome, name_of(reduction.names), reason)
