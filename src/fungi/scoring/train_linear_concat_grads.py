"""Linear probing: logistic regression over nested combinations of features (spec vision 9.5)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Integer

from fungi.combine.names import all_combinations, nested_chain
from fungi.data.base import DATASETS
from fungi.errors import FungiError
from fungi.evaluators.linear import (
    LAMBDAS,
    LabelledRows,
    LinearClassifier,
    cross_validation_accuracies,
    effect_of_tolerance,
    fit_classifier,
    validation_accuracies,
)
from fungi.evaluators.logistic import LogisticOptions, Solver, bytes_beside_features, room_for_rows
from fungi.evaluators.metrics import classification_scores
from fungi.report.gain_table import print_gain_table
from fungi.report.result_file import Scores
from fungi.runtime.log import logger
from fungi.scoring.evaluation_loop import (
    Combined,
    Task,
    evaluate,
    labels_missing_from_train,
    primary_metric,
)
from fungi.scoring.feature_settings import FewShotSettings
from fungi.settings import SEEDS, setting
from fungi.store.layout import Layout

DESCRIPTION = """Logistic regression over nested combinations of features, from files that are already extracted.

  python train_linear_concat_grads.py --dataset flowers102 --backbone vit-b16
  python train_linear_concat_grads.py --dataset flowers102 --backbone vit-b16 --shots 5
  python train_linear_concat_grads.py --dataset imagenet-1k --backbone vit-b16 --solver lbfgs --device cuda
"""
EPOCHS, EPOCHS_OF_IMAGENET = 300, 30
CROSS_VALIDATION_FOLDS = 5
NO_OFFICIAL_VALIDATION = (
    "{dataset} has a validation split, but there are no features of it here: lambda is chosen on a fifth of the train"
    " rows, which is not the published protocol. Extract it with --split valid."
)
MUCH_MEMORY = 8 << 30


@dataclass(frozen=True, kw_only=True)
class LinearSettings(FewShotSettings):
    """Flags of `train_linear_concat_grads.py`."""

    task: ClassVar[str] = "linear"

    all_combinations: bool = setting(False, "every combination, in place of the nested ones", decides="contents")
    valid_split: str = setting(
        "valid", "split to choose lambda on; a fifth of the train split where it is not there", mark="choose-on-"
    )
    valid_targets: Path | None = setting(
        None, "explicit files: HDF5 file with the validation labels", decides="contents"
    )
    valid_embeddings_datasets: tuple[Path, ...] = setting(
        (), "explicit files: embeddings of the validation split", decides="contents"
    )
    valid_datasets: tuple[str, ...] = setting(
        (), "explicit files: gradients of the validation split, FILE:KEY each", decides="contents"
    )
    solver: Solver = setting("cyanure", "cyanure: CPU, as published; lbfgs: torch, CPU or GPU", mark="")
    tolerance: float = setting(1e-3, "relative duality gap to stop at", aliases=("--tol",), within=(0, 1), mark="tol")
    compare_tolerances: tuple[float, ...] = setting(
        (),
        "report what the final fit gives at these tolerances, too",
        within=(0, 1),
        decides="contents",
        mark="tolerances",
    )
    max_epochs: int | None = setting(
        None,
        f"passes over the data of the final fit; {EPOCHS} if absent ({EPOCHS_OF_IMAGENET} for imagenet-1k)",
        aliases=("--max-iter",),
        within=(1, 10**7),
        mark="epochs",
    )
    sweep_epochs: int | None = setting(
        None,
        "passes over the data of each fit of the lambda sweep; as for the final fit if absent",
        aliases=("--max-opt-iter",),
        within=(1, 10**7),
        mark="sweep-epochs",
    )
    few_shot_validation: Literal["published", "cv", "none"] = setting(
        "published",
        "few-shot: choose lambda on the whole validation part, far larger than the shots (published), by"
        " cross-validation within the shots (cv), or take the middle of the grid (none)",
        mark="lambda-",
    )
    seed: int = setting(42, "seed of the validation split and of the solver", within=SEEDS, mark="seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tolerance <= 0 or any(value <= 0 for value in self.compare_tolerances):
            raise FungiError("--tolerance has to be larger than 0.")
        if any(value is not None and value < 1 for value in (self.max_epochs, self.sweep_epochs)):
            raise FungiError("--max-epochs and --sweep-epochs have to be at least 1.")

    @property
    def compute_device(self) -> torch.device:
        """cyanure knows processors alone."""
        return super().compute_device if self.solver == "lbfgs" else torch.device("cpu")

    @property
    def epochs(self) -> int:
        """Passes of the final fit."""
        return self.max_epochs or (EPOCHS_OF_IMAGENET if self.dataset_name == "imagenet-1k" else EPOCHS)

    def options(self, epochs: int) -> LogisticOptions:
        """What the solver is told."""
        return LogisticOptions(solver=self.solver, tolerance=self.tolerance, max_epochs=epochs, seed=self.seed)

    def splits(self, root: Path) -> tuple[str, ...]:
        """Splits that there are files of."""
        if self.takes_files:
            there = self._names_valid_files
        else:
            there = Layout(root).embeddings(self.dataset_name, self.backbone_name, self.valid_split).is_file()
        return ("train", "valid", "test") if there else ("train", "test")

    @property
    def takes_files(self) -> bool:
        """Whether files are given one by one."""
        return super().takes_files or self._names_valid_files

    @property
    def _names_valid_files(self) -> bool:
        return any((self.valid_targets, self.valid_embeddings_datasets, self.valid_datasets))

    @property
    def has_official_validation(self) -> bool:
        """Whether the dataset comes with a validation split."""
        known = not self.takes_files and self.dataset_name in DATASETS
        return known and "valid" in DATASETS[self.dataset_name].splits


class LinearScorer:
    """One run. Rows of the train split: those to fit on, and, without a validation split, those to choose lambda on.

    PCA is fitted on the rows to fit on, before validation rows are added for the final fit (published; quirk V15).
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
            rows, valid_rows = held_out_fifth(targets, settings.seed)
            valid, valid_targets = train, targets[valid_rows]
            logger.info(
                "no validation split: lambda is chosen on %d of the %d train rows", len(valid_rows), len(targets)
            )
        shots = settings.rows(targets[rows], task.draw)
        rows = rows if shots is None else rows[shots]
        self._targets, self._valid_targets = targets[rows], valid_targets
        self.sources = train.source(settings, rows), valid.source(settings, valid_rows), test.source(settings)
        self._say_memory()

    def score(self, features: Combined) -> Scores:
        """Accuracies and predictions of one combination, and how the fit went."""
        of_train, of_valid, of_test = self.sources
        # One matrix for both, so that the final fit copies nothing: train rows first, validation rows after them.
        cut, settings = len(of_train), self._settings
        both = room_for_rows(settings.solver, cut + len(of_valid), features.reduction.dim, settings.compute_device)
        both[:cut] = features.rows(of_train)
        both[cut:] = features.rows(of_valid)
        train, valid = LabelledRows(both[:cut], self._targets), LabelledRows(both[cut:], self._valid_targets)
        test = LabelledRows(features.rows(of_test), self.test_targets)

        accuracies = self._accuracies(train, valid)
        chosen = float(LAMBDAS[len(LAMBDAS) // 2 if accuracies is None else int(accuracies.argmax())])
        refit_on_all = not self._official and settings.shots is None
        final = LabelledRows(both, np.concatenate([train.targets, valid.targets])) if refit_on_all else train
        options = settings.options(settings.epochs)
        classifier = fit_classifier(final, chosen, options)
        compared = effect_of_tolerance(final, test, chosen, options, settings.compare_tolerances)
        predictions = classifier.predict(test.features)
        return {
            **classification_scores(predictions, self.test_targets, classifier.likeness(test.features)),
            "fit": self._describe(classifier, len(final.targets)) | ({"tolerances": compared} if compared else {}),
            "validation_lambdas": LAMBDAS.tolist(),
            "validation_accuracies": None if accuracies is None else accuracies.tolist(),
            "predictions": predictions.tolist(),
        }

    def warnings(self) -> list[str]:
        """What was odd in the labels, and a validation split that is not there."""
        found = labels_missing_from_train(self._targets, self.test_targets)
        if self._settings.has_official_validation and not self._official:
            found.append(NO_OFFICIAL_VALIDATION.format(dataset=self._settings.dataset_name))
        return found

    def _say_memory(self) -> None:
        rows, classes = sum(map(len, self.sources[:2])), len(np.unique(self._targets))
        held = bytes_beside_features(self._settings.solver, rows, classes)
        if held > MUCH_MEMORY:
            logger.info(
                "cyanure needs about %.0f GiB for %d rows x %d classes beside the features; --solver lbfgs does not.",
                *(held / 2**30, rows, classes),
            )

    def _accuracies(self, train: LabelledRows, valid: LabelledRows) -> Any:
        settings = self._settings
        options = settings.options(settings.sweep_epochs or settings.epochs)
        way = "published" if settings.shots is None else settings.few_shot_validation
        if way == "none":
            return None
        if way == "cv":
            return cross_validation_accuracies(train, CROSS_VALIDATION_FOLDS, options)
        return validation_accuracies(train, valid, options)

    def _describe(self, classifier: LinearClassifier, rows: int) -> dict[str, Any]:
        found = classifier.logistic
        stopped = found.relative_gap <= self._settings.tolerance
        if not stopped:
            logger.info("stopped after %d passes at a relative duality gap of %.1e", found.epochs, found.relative_gap)
        return {
            "solver": self._settings.solver,
            "lambda": found.regularization,
            "relative_duality_gap": found.relative_gap,
            "reached_tolerance": stopped,
            "epochs": found.epochs,
            "rows": rows,
            "validation": "official split" if self._official else "a fifth of the train split",
        }


def held_out_fifth(
    targets: Integer[np.ndarray, " n"], seed: int
) -> tuple[Integer[np.ndarray, " s"], Integer[np.ndarray, " m"]]:
    """A stratified 80/20 split of the rows, each part ascending; FungiError where a class is too small for it."""
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits=1, train_size=0.8, random_state=seed)
    try:
        kept, held_out = next(splitter.split(targets, targets))
    except ValueError as error:
        raise FungiError(f"the train split can't be divided 80/20 by class for validation: {error}") from None
    return np.sort(kept), np.sort(held_out)


def run(settings: LinearSettings) -> dict[str, Any]:
    """Evaluate what is missing; the content of the result file."""
    result = evaluate(
        settings,
        settings.task_name,
        splits=settings.splits,
        combinations=all_combinations if settings.all_combinations else nested_chain,
        prepare=lambda task: LinearScorer(settings, task),
        draws=settings.draws(),
    )
    return result.content()


def show(settings: LinearSettings, content: dict[str, Any]) -> None:
    """Print the table."""
    title = "all train rows" if settings.shots is None else f"{settings.shots}-shot"
    print_gain_table({title: content}, primary_metric(settings))
