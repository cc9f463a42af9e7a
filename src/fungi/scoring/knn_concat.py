"""kNN classification over every combination of features (spec vision 9.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fungi.combine.names import Combination, all_combinations, in_order, nested_chain
from fungi.errors import FungiError
from fungi.results.text import print_gain_table
from fungi.scoring.feature_settings import FewShotSettings
from fungi.search import Backend
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
        if self.choose and self.combinations != "all":
            raise FungiError("--choose chooses among all combinations: leave out --combinations.")


_COMBINATIONS: dict[str, Callable[[Sequence[str]], list[Combination]]] = {
    "all": all_combinations,
    "nested": nested_chain,
    "single": lambda features: [(name,) for name in in_order(features)],
}


def run(settings: KnnSettings) -> dict[str, Any]:
    """Evaluate what is missing; the content of the result file."""
    from fungi.scoring.choose import ChoiceScorer, rows_of_the_table
    from fungi.scoring.evaluation_loop import evaluate
    from fungi.scoring.scorers import KnnScorer

    return evaluate(
        settings,
        combinations=rows_of_the_table if settings.choose else _COMBINATIONS[settings.combinations],
        prepare=lambda task: (
            ChoiceScorer(settings, task, most_neighbours=settings.k, metric=settings.primary_metric)
            if settings.choose
            else KnnScorer(settings, task, k=settings.k, backend=settings.backend)
        ),
        draws=settings.draws(),
    )


def show(settings: KnnSettings, content: dict[str, Any]) -> None:
    """Print the table."""
    if settings.choose:
        from fungi.results.choice_table import choice_table

        print(choice_table(content, settings.primary_metric))
        return
    print_gain_table({settings.fitted_in_words: content}, settings.primary_metric)
