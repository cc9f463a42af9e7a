"""Uncertainty of scores: standard errors over the scored rows, and tests against the score of the embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from fungi.store.layout import EMBEDDINGS

LEVEL = 0.05
"""A difference with a p-value of at least this is within noise."""


@dataclass(frozen=True)
class Uncertainty:
    """Uncertainty of a score. rows: number of scored rows; error: standard error, as a share; p_value: of the test that
    the score equals that of the embeddings; None for the embeddings, and if the result has none.
    """

    rows: int
    error: float
    p_value: float | None = None


def uncertainties(content: Mapping[str, Any], metric: str) -> dict[str, Uncertainty]:
    """Return the uncertainty of every combination whose predictions are in the result.

    metric: `accuracy` or `mean-per-class-accuracy`; for other metrics the answer is empty.
    """
    targets = np.asarray(content.get("test_targets", []))
    if not len(targets) or metric not in ("accuracy", "mean-per-class-accuracy"):
        return {}
    right = _right_by_combination(content, targets)
    classes = targets if metric == "mean-per-class-accuracy" else np.zeros_like(targets)
    p_values = _p_values(right)
    return {
        name: Uncertainty(len(targets), _standard_error(rows.mean(axis=0), classes), p_values.get(name))
        for name, rows in right.items()
    }


def _right_by_combination(
    content: Mapping[str, Any], targets: Integer[np.ndarray, " q"]
) -> dict[str, Float[np.ndarray, "r q"]]:
    """Return combination -> matrix of runs by rows: 1 for a correct prediction, else 0."""
    runs = [run["results"] for run in content.get("runs") or [content]]
    names = [name for name, scores in runs[0].items() if "predictions" in scores]
    return {
        name: np.stack([np.asarray(run[name]["predictions"]) == targets for run in runs]).astype(np.float64)
        for name in names
        if all("predictions" in run.get(name, ()) for run in runs)
    }


def _standard_error(scores: Float[np.ndarray, " q"], classes: Integer[np.ndarray, " q"]) -> float:
    """Return the standard error of the mean score over classes, each of which counts equally."""
    _, numbers, counts = np.unique(classes, return_inverse=True, return_counts=True)
    means = np.bincount(numbers, scores) / counts
    variances = np.bincount(numbers, (scores - means[numbers]) ** 2) / counts
    return float(np.sqrt((variances / counts).sum()) / len(counts))


def _p_values(right: Mapping[str, Float[np.ndarray, "r q"]]) -> dict[str, float]:
    """Return the p-value of each combination against the embeddings, on the same rows.

    A single run is tested by McNemar's exact test, several runs by a paired t-test on the means of each row over runs.
    """
    from scipy.special import bdtr, stdtr  # the distributions of scipy.stats, which takes a second to import

    names = [name for name in right if name != EMBEDDINGS]
    if EMBEDDINGS not in right or not names:
        return {}
    differences = np.stack([right[name] - right[EMBEDDINGS] for name in names])  # [m r q]
    if differences.shape[1] == 1:
        gained, lost = (differences > 0).sum(axis=(1, 2)), (differences < 0).sum(axis=(1, 2))
        values = np.minimum(1.0, 2 * bdtr(np.minimum(gained, lost), gained + lost, 0.5))
    else:
        by_row = differences.mean(axis=1)  # [m q]
        count, errors = by_row.shape[1], np.maximum(by_row.std(axis=1, ddof=1), 1e-12)
        values = 2 * stdtr(count - 1, -np.abs(by_row.mean(axis=1)) / errors * np.sqrt(count))
    return dict(zip(names, map(float, values), strict=True))
