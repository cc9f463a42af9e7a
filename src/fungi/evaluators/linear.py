"""Linear probing with logistic regression (spec vision 9.5): the steps of the published protocol.

The protocol measures the validation accuracy for several values of lambda, the strength of the L2 penalty. The final
fit has the first lambda with the best accuracy. `fungi.scoring` runs the steps.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from fungi.errors import FungiError
from fungi.evaluators.logistic import LogisticFit, LogisticOptions, LogisticProblem, fit, fit_path

LAMBDAS = np.linspace(5e-6, 5e-4, 5)
"""Values of lambda that are compared on the validation rows."""


@dataclass(frozen=True)
class LabelledRows:
    """Features `[n r]` and labels `[n]`."""

    features: Float[Tensor, "n r"]
    targets: Integer[np.ndarray, " n"]

    def take(self, rows: Integer[np.ndarray, " selected"]) -> "LabelledRows":
        """Return a subset of the rows."""
        indices = torch.from_numpy(rows).to(self.features.device)
        return LabelledRows(self.features[indices], self.targets[rows])


@dataclass(frozen=True)
class LinearClassifier:
    """A logistic regression. classes: label of each column of the weights."""

    classes: Integer[np.ndarray, " c"]
    logistic: LogisticFit

    def predict(self, features: Float[Tensor, "q r"]) -> Integer[np.ndarray, " q"]:
        """Return the predicted label of each row."""
        return self.classes[self.logistic.codes(features).cpu().numpy()]

    def decision_score(self, features: Float[Tensor, "q r"]) -> Float[np.ndarray, " q"] | None:
        """Return the difference of the two logits of each row; None unless the classes are 0 and 1."""
        if self.classes.tolist() != [0, 1]:
            return None
        direction = self.logistic.weights[:, 1] - self.logistic.weights[:, 0]  # [r]
        return (features.double() @ direction).cpu().numpy()

    def accuracy(self, rows: LabelledRows) -> float:
        """Return the share of correctly classified rows."""
        return float(np.mean(self.predict(rows.features) == rows.targets))


def fit_classifier(rows: LabelledRows, regularization: float, options: LogisticOptions) -> LinearClassifier:
    """Return the classifier for one lambda (`regularization`)."""
    classes, codes = _classes_and_codes(rows)
    problem = LogisticProblem(rows.features, codes, len(classes), regularization)
    return LinearClassifier(classes, fit(problem, options))


def validation_accuracies(
    train: LabelledRows, validation: LabelledRows, options: LogisticOptions
) -> Float[np.ndarray, " lambdas"]:
    """Fit on train rows for each of `LAMBDAS`, and return the accuracies on validation rows."""
    classes, codes = _classes_and_codes(train)
    fits = fit_path(train.features, codes, len(classes), LAMBDAS, options)
    return np.array([LinearClassifier(classes, logistic).accuracy(validation) for logistic in fits])


def cross_validation_accuracies(
    train: LabelledRows, folds: int, options: LogisticOptions
) -> Float[np.ndarray, " lambdas"]:
    """Return the mean accuracy of each lambda over stratified folds. Raises FungiError if a class has only one row."""
    from sklearn.model_selection import StratifiedKFold

    _, class_sizes = np.unique(train.targets, return_counts=True)
    smallest_size = int(class_sizes.min())
    if smallest_size < 2:
        raise FungiError("cross-validation needs two train rows of each class. Use more --shots.")
    splitter = StratifiedKFold(min(folds, smallest_size), shuffle=True, random_state=options.seed)
    scores = [
        validation_accuracies(train.take(fit_rows), train.take(validation_rows), options)
        for fit_rows, validation_rows in splitter.split(train.targets, train.targets)
    ]
    return np.mean(scores, axis=0)


def effect_of_tolerance(
    rows: LabelledRows,
    test: LabelledRows,
    regularization: float,
    options: LogisticOptions,
    tolerances: tuple[float, ...],
) -> list[dict[str, float]]:
    """Return accuracy on test rows, duality gap and number of passes of the fit on `rows`, at each tolerance."""
    effects = []
    for tolerance in tolerances:
        classifier = fit_classifier(rows, regularization, replace(options, tolerance=tolerance))
        effects.append(
            {
                "tolerance": tolerance,
                "accuracy": classifier.accuracy(test),
                "relative_duality_gap": classifier.logistic.relative_gap,
                "epochs": classifier.logistic.epochs,
            }
        )
    return effects


def _classes_and_codes(rows: LabelledRows) -> tuple[Integer[np.ndarray, " c"], Tensor]:
    """Return the labels that occur, and for each row the index of its label. Raises FungiError for a single label."""
    classes, codes = np.unique(rows.targets, return_inverse=True)
    if len(classes) < 2:
        raise FungiError(f"all train rows have the label {classes[0]}: a classifier needs two classes.")
    return classes, torch.from_numpy(codes.astype(np.int64)).to(rows.features.device)
