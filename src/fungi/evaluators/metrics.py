"""Scores of predicted labels."""

import numpy as np
from jaxtyping import Float, Integer


def accuracy(predictions: Integer[np.ndarray, " q"], targets: Integer[np.ndarray, " q"]) -> float:
    """Share of rows with the right label."""
    return float(np.mean(predictions == targets))


def per_class_accuracy(
    predictions: Integer[np.ndarray, " q"], targets: Integer[np.ndarray, " q"]
) -> tuple[Integer[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Classes present in the targets, and the recall of each."""
    classes, place = np.unique(targets, return_inverse=True)
    right = np.bincount(place, weights=predictions == targets)
    return classes, right / np.bincount(place)


def mean_per_class_accuracy(predictions: Integer[np.ndarray, " q"], targets: Integer[np.ndarray, " q"]) -> float:
    """Mean recall over the classes present in the targets (spec vision 9.3)."""
    return float(per_class_accuracy(predictions, targets)[1].mean())


def classification_scores(
    predictions: Integer[np.ndarray, " q"], targets: Integer[np.ndarray, " q"]
) -> dict[str, float]:
    """Both accuracies, under the names that result files use."""
    return {
        "accuracy": accuracy(predictions, targets),
        "mean-per-class-accuracy": mean_per_class_accuracy(predictions, targets),
    }
