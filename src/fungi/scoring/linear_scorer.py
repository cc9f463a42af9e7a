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
from fungi.scoring.evaluation_loop import Combined, Task, warnings_of_labels
from fungi.scoring.linear_settings import LinearSettings

CROSS_VALIDATION_FOLDS = 5
NO_OFFICIAL_VALIDATION = (
    "{dataset} has a validation split, but its features are not extracted. Lambda is chosen on a fifth of the train"
    " rows, which is not the published protocol. Extract the split with --split valid."
)
MUCH_MEMORY = 8 << 30


class LinearScorer:
    """Scores the combinations of one run.

    Without a validation split, lambda is chosen on a fifth of the train rows. PCA is fitted on the other train rows,
    before the validation rows are added for the final fit (published; deviation V15).
    """

    def __init__(self, settings: LinearSettings, task: Task) -> None:
        self._settings = settings
        train, test = task.splits["train"], task.splits["test"]
        targets, self.test_targets = train.targets(), test.targets()
        self._official = "valid" in task.splits
        if self._official:
            rows, valid_rows, valid = np.arange(len(targets)), None, task.splits["valid"]
            valid_targets = valid.targets()
        else:
            rows, valid_rows = held_out_fifth(targets, settings.seed, train.class_names())
            valid, valid_targets = train, targets[valid_rows]
            logger.info(
                "no validation split: lambda is chosen on %d of the %d train rows", len(valid_rows), len(targets)
            )
        shots = settings.rows(targets[rows], task.draw, task.provenances, train.class_names())
        rows = rows if shots is None else rows[shots]
        self._targets, self._valid_targets = targets[rows], valid_targets
        self.sources = train.source(settings, rows), valid.source(settings, valid_rows), test.source(settings)
        self._log_memory()

    def score(self, features: Combined) -> Scores:
        """Return accuracies and predictions of one combination, with facts about the fit."""
        train_source, valid_source, test_source = self.sources
        # Train and validation rows share one matrix, so that the final fit copies nothing.
        cut, settings = len(train_source), self._settings
        both = room_for_rows(settings.solver, cut + len(valid_source), features.reduction.dim, settings.compute_device)
        both[:cut] = features.rows(train_source)
        both[cut:] = features.rows(valid_source)
        train, valid = LabelledRows(both[:cut], self._targets), LabelledRows(both[cut:], self._valid_targets)
        test = LabelledRows(features.rows(test_source), self.test_targets)

        accuracies = self._accuracies(train, valid)
        chosen = float(LAMBDAS[len(LAMBDAS) // 2 if accuracies is None else int(accuracies.argmax())])
        refit_on_all = not (self._official or settings.uses_shots)
        final = LabelledRows(both, np.concatenate([train.targets, valid.targets])) if refit_on_all else train
        options = settings.options(settings.epochs)
        classifier = fit_classifier(final, chosen, options)
        compared = effect_of_tolerance(final, test, chosen, options, settings.compare_tolerances)
        predictions = classifier.predict(test.features)
        return {
            **classification_scores(predictions, self.test_targets, classifier.decision_score(test.features)),
            "fit": self._describe(classifier, len(final.targets)) | ({"tolerances": compared} if compared else {}),
            "validation_lambdas": LAMBDAS.tolist(),
            "validation_accuracies": None if accuracies is None else accuracies.tolist(),
            "predictions": predictions.tolist(),
        }

    def warnings(self) -> list[str]:
        """Return warnings about the labels, and about a missing validation split."""
        texts = warnings_of_labels(self._targets, self.test_targets)
        if self._settings.has_official_validation and not self._official:
            texts.append(NO_OFFICIAL_VALIDATION.format(dataset=self._settings.dataset_name))
        return texts

    def _log_memory(self) -> None:
        rows, classes = sum(map(len, self.sources[:2])), len(np.unique(self._targets))
        extra_bytes = bytes_beside_features(self._settings.solver, rows, classes)
        if extra_bytes > MUCH_MEMORY:
            logger.info(
                "cyanure needs about %.0f GiB for %d rows x %d classes besides the features; --solver lbfgs does not.",
                *(extra_bytes / 2**30, rows, classes),
            )

    def _accuracies(self, train: LabelledRows, valid: LabelledRows) -> Any:
        settings = self._settings
        options = settings.options(settings.sweep_epochs or settings.epochs)
        validation = settings.few_shot_validation if settings.uses_shots else "published"
        if validation == "none":
            return None
        if validation == "cv":
            return cross_validation_accuracies(train, CROSS_VALIDATION_FOLDS, options)
        return validation_accuracies(train, valid, options)

    def _describe(self, classifier: LinearClassifier, rows: int) -> dict[str, Any]:
        fitted = classifier.logistic
        reached_tolerance = fitted.relative_gap <= self._settings.tolerance
        if not reached_tolerance:
            logger.info(
                "the fit stopped after %d passes at a relative duality gap of %.1e", fitted.epochs, fitted.relative_gap
            )
        return {
            "solver": self._settings.solver,
            "lambda": fitted.regularization,
            "relative_duality_gap": fitted.relative_gap,
            "reached_tolerance": reached_tolerance,
            "epochs": fitted.epochs,
            "rows": rows,
            "validation": "official split" if self._official else "a fifth of the train split",
        }


def held_out_fifth(
    targets: Integer[np.ndarray, " n"], seed: int, class_names: Sequence[str] = ()
) -> tuple[Integer[np.ndarray, " s"], Integer[np.ndarray, " m"]]:
    """Split the rows 80/20, stratified by class. Both parts are in ascending order.

    class_names: names of the labels 0, 1, ..., for the error message. Raises FungiError if a class is too small.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    labels, counts = np.unique(targets, return_counts=True)
    if counts.min() < 2:
        single = listed(named_class(int(label), class_names) for label in labels[counts < 2])
        raise FungiError(
            "the train split can't be divided 80/20 by class for validation: these classes have a single train row:"
            f" {single}. Add rows, remove these classes, or extract a separate split and give it with --valid-split."
        )
    splitter = StratifiedShuffleSplit(n_splits=1, train_size=0.8, random_state=seed)
    try:
        kept, held_out = next(splitter.split(targets, targets))
    except ValueError as error:
        raise FungiError(f"the train split can't be divided 80/20 by class for validation: {error}") from None
    return np.sort(kept), np.sort(held_out)
