"""Scores of predicted labels."""

import numpy as np
from jaxtyping import Float, Integer


def accuracy(predictions: Integer[np.ndarray, " q"], targets: Integer[np.ndarray, " q"]) -> float:
    """Return the share of correctly classified rows."""
    return float(np.mean(predictions == targets))


def per_class_accuracy(
    predictions: Integer[np.ndarray, " q"], targets: Integer[np.ndarray, " q"]
) -> tuple[Integer[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Return the classes in the targets, and the recall of each class."""
    classes, codes = np.unique(targets, return_inverse=True)
    correct = np.bincount(codes, weights=predictions == targets)
    return classes, correct / np.bincount(codes)


def mean_per_class_accuracy(predictions: Integer[np.ndarray, " q"], targets: Integer[np.ndarray, " q"]) -> float:
    """Return the mean recall over the classes in the targets (spec vision 9.3)."""
    return float(per_class_accuracy(predictions, targets)[1].mean())


def classification_scores(
    predictions: Integer[np.ndarray, " q"],
    targets: Integer[np.ndarray, " q"],
    decision_score: Float[np.ndarray, " q"] | None = None,
) -> dict[str, float]:
    """Return accuracy and mean per-class accuracy under their names in result files.

    If a decision score is given and the labels are 0 and 1, the dictionary also has `auc`.

    decision_score: preference of the classifier for class 1, per row, on any increasing scale. `auc` is the area under
    the ROC curve.
    """
    scores = {
        "accuracy": accuracy(predictions, targets),
        "mean-per-class-accuracy": mean_per_class_accuracy(predictions, targets),
    }
    if decision_score is not None and np.array_equal(np.unique(targets), [0, 1]):
        from sklearn.metrics import roc_auc_score

        scores["auc"] = float(roc_auc_score(targets, decision_score))
    return scores
