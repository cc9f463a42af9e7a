"""Linear probing of one combination: choose lambda on validation rows, then fit the final model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from fungi.combine.names import named_class
from fungi.errors import FungiError, listed
from fungi.evaluators.linear import (
    LAMBDAS,
    LabelledRows,
    LinearClassifier,
    cross_validation_accuracies,
    effect_of_tolerance,
    fit_classifier,
    validation_accuracies,
)
from fungi.evaluators.logistic import bytes_beside_features, room_for_rows
from fungi.evaluators.metrics import classification_scores
from fungi.results.result_file import Scores
from fungi.runtime.log import logger
from fungi.scoring.evaluation_loop import CombinedFeatures, EvaluationRun, warnings_of_labels
from fungi.scoring.linear_settings import LinearSettings

CROSS_VALIDATION_FOLDS = 5
NO_OFFICIAL_VALIDATION = (
    "{dataset} has a validation split, but its features are not extracted. Lambda is chosen on a fifth of the train"
    " rows, which is not the published protocol. Extract the split with --split valid."
)
LOGGED_MEMORY = 8 << 30
"""If the solver needs more bytes than this, in addition to the features, the memory that it needs is logged."""


class LinearScorer:
    """Scorer of the combinations of one run.

    With a validation split, lambda is chosen on this split, and the final model is fitted on the train rows. Without a
    validation split, lambda is chosen on a fifth of the train rows, and PCA is fitted on the other four fifths. The
    final model is then fitted on all train rows (published; spec vision 10, V15) or, with shots, on the rows of the
    shots.
    """

    def __init__(self, settings: LinearSettings, run: EvaluationRun) -> None:
        self._settings = settings
        train, test = run.splits["train"], run.splits["test"]
        targets, self.test_targets = train.targets(), test.targets()
        self._has_valid_split = "valid" in run.splits
        if self._has_valid_split:
            rows, valid_rows, valid = np.arange(len(targets)), None, run.splits["valid"]
            valid_targets = valid.targets()
        else:
            rows, valid_rows = held_out_fifth(targets, settings.seed, train.class_names())
            valid, valid_targets = train, targets[valid_rows]
            logger.info(
                "no validation split: lambda is chosen on %d of the %d train rows", len(valid_rows), len(targets)
            )
        shots = settings.rows(targets[rows], run.few_shot_seed, run.provenances, train.class_names())
        rows = rows if shots is None else rows[shots]
        self._targets, self._valid_targets = targets[rows], valid_targets
        self.sources = train.source(settings, rows), valid.source(settings, valid_rows), test.source(settings)
        self._log_memory()

    def score(self, features: CombinedFeatures) -> Scores:
        """Return accuracies and predictions of one combination, with facts about the fit."""
        train_source, valid_source, test_source = self.sources
        # Train and validation rows share one matrix, so the final fit copies nothing.
        train_count, settings = len(train_source), self._settings
        rows, dim = train_count + len(valid_source), features.reduction.dim
        matrix = room_for_rows(settings.solver, rows, dim, settings.compute_device)
        matrix[:train_count] = features.rows(train_source)
        matrix[train_count:] = features.rows(valid_source)
        train = LabelledRows(matrix[:train_count], self._targets)
        valid = LabelledRows(matrix[train_count:], self._valid_targets)
        test = LabelledRows(features.rows(test_source), self.test_targets)

        accuracies = self._validation_accuracies(train, valid)
        middle_index = len(LAMBDAS) // 2  # used with --few-shot-validation none
        index = middle_index if accuracies is None else int(accuracies.argmax())
        best_lambda = float(LAMBDAS[index])
        fits_on_all = not (self._has_valid_split or settings.uses_shots)
        final = LabelledRows(matrix, np.concatenate([train.targets, valid.targets])) if fits_on_all else train
        options = settings.options(settings.epochs)
        classifier = fit_classifier(final, best_lambda, options)
        tolerances = effect_of_tolerance(final, test, best_lambda, options, settings.compare_tolerances)
        predictions = classifier.predict(test.features)
        return {
            **classification_scores(predictions, self.test_targets, classifier.decision_score(test.features)),
            "fit": self._describe(classifier, len(final.targets)) | ({"tolerances": tolerances} if tolerances else {}),
            "validation_lambdas": LAMBDAS.tolist(),
            "validation_accuracies": None if accuracies is None else accuracies.tolist(),
            "predictions": predictions.tolist(),
        }

    def warnings(self) -> list[str]:
        """Return warnings about the labels, and about a missing validation split."""
        texts = warnings_of_labels(self._targets, self.test_targets)
        if self._settings.has_official_validation and not self._has_valid_split:
            texts.append(NO_OFFICIAL_VALIDATION.format(dataset=self._settings.dataset_name))
        return texts

    def _log_memory(self) -> None:
        """Log the memory that cyanure needs, if it is more than `LOGGED_MEMORY`."""
        rows, classes = sum(map(len, self.sources[:2])), len(np.unique(self._targets))
        extra_bytes = bytes_beside_features(self._settings.solver, rows, classes)
        if extra_bytes > LOGGED_MEMORY:
            logger.info(
                "cyanure needs about %.0f GiB for %d rows x %d classes besides the features; --solver lbfgs does not.",
                extra_bytes / 2**30,
                rows,
                classes,
            )

    def _validation_accuracies(self, train: LabelledRows, valid: LabelledRows) -> Any:
        """Return the validation accuracy with each lambda, or None if the settings turn the choice of lambda off."""
        settings = self._settings
        options = settings.options(settings.sweep_epochs or settings.epochs)
        validation = settings.few_shot_validation if settings.uses_shots else "published"
        if validation == "none":
            return None
        if validation == "cv":
            return cross_validation_accuracies(train, CROSS_VALIDATION_FOLDS, options)
        return validation_accuracies(train, valid, options)

    def _describe(self, classifier: LinearClassifier, rows: int) -> dict[str, Any]:
        """Return facts about the final fit for the result file."""
        fit = classifier.logistic
        reached_tolerance = fit.relative_gap <= self._settings.tolerance
        if not reached_tolerance:
            logger.info(
                "the fit stopped after %d passes at a relative duality gap of %.1e", fit.epochs, fit.relative_gap
            )
        return {
            "solver": self._settings.solver,
            "lambda": fit.regularization,
            "relative_duality_gap": fit.relative_gap,
            "reached_tolerance": reached_tolerance,
            "epochs": fit.epochs,
            "rows": rows,
            "validation": "official split" if self._has_valid_split else "a fifth of the train split",
        }


def held_out_fifth(
    targets: Integer[np.ndarray, " n"], seed: int, class_names: Sequence[str] = ()
) -> tuple[Integer[np.ndarray, " train"], Integer[np.ndarray, " valid"]]:
    """Split the rows 80/20, stratified by class. Return the rows of both parts in ascending order.

    class_names: names of the labels 0, 1, ..., for the error message. Raises FungiError if a class is too small.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    labels, counts = np.unique(targets, return_counts=True)
    if counts.min() < 2:
        classes = listed(named_class(int(label), class_names) for label in labels[counts < 2])
        raise FungiError(
            "the train split can't be divided 80/20 by class for validation: these classes have a single train row:"
            f" {classes}. Add rows, remove these classes, or extract a separate split and give it with --valid-split."
        )
    splitter = StratifiedShuffleSplit(n_splits=1, train_size=0.8, random_state=seed)
    try:
        train_rows, valid_rows = next(splitter.split(targets, targets))
    except ValueError as error:
        raise FungiError(f"the train split can't be divided 80/20 by class for validation: {error}") from None
    return np.sort(train_rows), np.sort(valid_rows)
