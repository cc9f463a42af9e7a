"""Compute standard errors of scores over the scored rows, and test scores against the score of the embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from fungi.results.result_file import runs_of
from fungi.store.layout import EMBEDDINGS

LEVEL = 0.05
"""Significance level: a difference with this or a larger p-value is within noise."""


@dataclass(frozen=True)
class Uncertainty:
    """The uncertainty of a score.

    rows: number of scored rows. error: standard error, from 0 to 1. p_value: p-value of the test that the score equals
    the score of the embeddings; None for the embeddings, and for results without embeddings.
    """

    rows: int
    error: float
    p_value: float | None = None


def uncertainties(content: Mapping[str, Any], metric: str) -> dict[str, Uncertainty]:
    """Return the uncertainty of every combination that has predictions in the result.

    metric: `accuracy` or `mean-per-class-accuracy`; for other metrics, the result is empty.
    """
    targets = np.asarray(content.get("test_targets", []))
    if not len(targets) or metric not in ("accuracy", "mean-per-class-accuracy"):
        return {}
    correct = _correct_by_combination(content, targets)
    # The accuracy of all rows is the mean accuracy per class if all rows are in one class.
    labels = targets if metric == "mean-per-class-accuracy" else np.zeros_like(targets)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    p_values = _p_values(correct)
    return {
        name: Uncertainty(len(targets), _standard_error(matrix.mean(axis=0), classes, counts), p_values.get(name))
        for name, matrix in correct.items()
    }


def _correct_by_combination(
    content: Mapping[str, Any], targets: Integer[np.ndarray, " q"]
) -> dict[str, Float[np.ndarray, "r q"]]:
    """Return a matrix `[runs, rows]` for each combination: 1 for a correct prediction, 0 for a wrong prediction."""
    runs = [run["results"] for run in runs_of(content)]
    names = [name for name, scores in runs[0].items() if "predictions" in scores]
    return {
        name: np.stack([np.asarray(run[name]["predictions"]) == targets for run in runs]).astype(np.float64)
        for name in names
        if all("predictions" in run.get(name, ()) for run in runs)
    }


def _standard_error(
    scores: Float[np.ndarray, " q"], classes: Integer[np.ndarray, " q"], counts: Integer[np.ndarray, " c"]
) -> float:
    """Return the standard error of the mean accuracy per class.

    scores: 1 for a correct row and 0 for a wrong row, or the mean of these values over several runs. classes: class of
    each row, from 0. counts: number of rows of each class.

    The error of a class is half the width of Wilson's interval (1927) at one standard deviation. This error is above 0
    even if all predictions are correct: it is 0.07 for 6 correct predictions of 6.
    """
    means = np.bincount(classes, scores) / counts
    variances = np.bincount(classes, (scores - means[classes]) ** 2) / counts
    errors = np.sqrt(variances * counts + 0.25) / (counts + 1)
    return float(np.sqrt((errors**2).sum()) / len(counts))


def _p_values(correct: Mapping[str, Float[np.ndarray, "r q"]]) -> dict[str, float]:
    """Return the p-value of each combination against the embeddings, on the same rows.

    A single run is tested with McNemar's exact test. For several runs, the mean over the runs is computed for each row.
    These means are tested with a paired t-test over the rows.
    """
    from scipy.special import bdtr, stdtr  # scipy.stats has the same distributions, but its import takes a second

    names = [name for name in correct if name != EMBEDDINGS]
    if EMBEDDINGS not in correct or not names:
        return {}
    differences = np.stack([correct[name] - correct[EMBEDDINGS] for name in names])  # [combinations, runs, rows]
    is_single_run = differences.shape[1] == 1
    if is_single_run:
        wins, losses = (differences > 0).sum(axis=(1, 2)), (differences < 0).sum(axis=(1, 2))
        p_values = np.minimum(1.0, 2 * bdtr(np.minimum(wins, losses), wins + losses, 0.5))
    else:
        row_means = differences.mean(axis=1)  # [combinations, rows]
        count, stds = row_means.shape[1], np.maximum(row_means.std(axis=1, ddof=1), 1e-12)
        p_values = 2 * stdtr(count - 1, -np.abs(row_means.mean(axis=1)) / stds * np.sqrt(count))
    return dict(zip(names, map(float, p_values), strict=True))
