"""kNN classification over every combination of features (spec vision 9.2)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fungi.combine.names import Combination, all_combinations, in_order, nested_chain
from fungi.errors import FungiError
from fungi.evaluators.knn import majority_vote, neighbour_labels
from fungi.evaluators.metrics import classification_scores
from fungi.report.choice_table import choice_table
from fungi.report.gain_table import print_gain_table
from fungi.report.result_file import Scores
from fungi.scoring.choose import ChoiceScorer, rows_of_the_table
from fungi.scoring.evaluation_loop import (
    Combined,
    Scorer,
    Task,
    evaluate,
    labels_missing_from_train,
    primary_metric,
)
from fungi.scoring.feature_settings import FewShotSettings
from fungi.search.exact import Backend
from fungi.settings import SEEDS, setting

DESCRIPTION = """kNN classification over every combination of features, from files that are already extracted.

  python knn_concat.py --dataset flowers102 --backbone vit-b16
  python knn_concat.py --dataset flowers102 --backbone vit-b16 --shots 5
  python knn_concat.py --root run/seed-42 run/seed-43 run/seed-44     (mean and deviation over extractions)
  python knn_concat.py --choose                (features, components and neighbours, by leave-one-out on train rows)
"""


@dataclass(frozen=True, kw_only=True)
class KnnSettings(FewShotSettings):
    """Flags of `knn_concat.py`."""

    task: ClassVar[str] = "knn"

    combinations: Literal["all", "nested", "single"] = setting(
        "all",
        "all subsets of the features; the first, the first two, ...; or each feature alone",
        decides="contents",
        mark="",
    )
    k: int = setting(20, "neighbours that vote", within=(1, 10**6), mark="k")
    choose: bool = setting(
        False,
        "choose features, components (at most --pca-dim) and neighbours (at most --k) by leave-one-out on train rows",
        mark="chosen",
    )
    backend: Backend = setting("torch", "what searches the neighbours; all are exact and agree", decides="nothing")
    seed: int = setting(
        42,
        "taken for the sake of the original harness's commands: kNN involves no randomness",
        within=SEEDS,
        decides="nothing",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise FungiError(f"--k has to be at least 1, not {self.k}.")
        if self.choose and self.combinations != "all":
            raise FungiError("--choose chooses among all combinations: leave out --combinations.")


def _single(features: Iterable[str]) -> list[Combination]:
    return [(name,) for name in in_order(features)]


_COMBINATIONS = {"all": all_combinations, "nested": nested_chain, "single": _single}


class KnnScorer:
    """One run: train and test features of one extraction, and the train rows of one few-shot draw."""

    def __init__(self, settings: KnnSettings, task: Task) -> None:
        train, test = task.splits["train"], task.splits["test"]
        targets, self.test_targets = train.targets(), test.targets()
        rows = settings.rows(targets, task.draw)
        self._targets = targets if rows is None else targets[rows]
        self._settings = settings
        self.sources = train.source(settings, rows), test.source(settings)

    def score(self, features: Combined) -> Scores:
        """Accuracies and predictions of one combination. PCA sees the chosen train rows alone."""
        train, test = self.sources
        k, backend = self._settings.k, self._settings.backend
        labels = neighbour_labels(features.blocks(train), self._targets, features.rows(test), k, backend)
        predictions = majority_vote(labels)
        scores = classification_scores(predictions, self.test_targets, likeness=(labels == 1).mean(axis=1))
        return {**scores, "predictions": predictions.tolist()}

    def warnings(self) -> list[str]:
        """What was odd in the labels."""
        return labels_missing_from_train(self._targets, self.test_targets)


def run(settings: KnnSettings) -> dict[str, Any]:
    """Evaluate what is missing; the content of the result file."""
    result = evaluate(
        settings,
        settings.task_name,
        splits=lambda _: ("train", "test"),
        combinations=rows_of_the_table if settings.choose else _COMBINATIONS[settings.combinations],
        prepare=lambda task: _scorer(settings, task),
        draws=settings.draws(),
    )
    return result.content()


def _scorer(settings: KnnSettings, task: Task) -> Scorer:
    if settings.choose:
        return ChoiceScorer(settings, task, most_neighbours=settings.k, metric=primary_metric(settings))
    return KnnScorer(settings, task)


def show(settings: KnnSettings, content: dict[str, Any]) -> None:
    """Print the table."""
    if settings.choose:
        print(choice_table(content, primary_metric(settings)))
        return
    title = "all train rows" if settings.shots is None else f"{settings.shots}-shot"
    print_gain_table({title: content}, primary_metric(settings))
