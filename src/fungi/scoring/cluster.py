"""Cluster combinations of features by k-means, and match the clusters with the classes (spec vision 9.7)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from fungi.combine.names import all_combinations, nested_chain
from fungi.results.text import print_gain_table
from fungi.scoring.feature_settings import FeatureSettings
from fungi.settings import SEEDS, setting

DESCRIPTION = """k-means with as many clusters as classes, matched with the classes by the Hungarian algorithm.

  fungi cluster --dataset pets --backbone clip-vit-l14 --features embeddings kl dino
"""


@dataclass(frozen=True, kw_only=True)
class ClusterSettings(FeatureSettings):
    """Flags of `fungi cluster`. k-means clusters the rows of the scored split. PCA is fitted on the same rows."""

    task: ClassVar[str] = "clustering"

    all_combinations: bool = setting(
        False, "score every combination instead of only the nested ones", affects="which_results", topic="features"
    )
    restarts: int = setting(
        10,
        "number of random starts of k-means; the best result is kept",
        within=(1, 10_000),
        word_in_file_name="restarts",
    )
    seed: int = setting(42, "seed of the random starts", within=SEEDS, word_in_file_name="seed")


def run(settings: ClusterSettings) -> dict[str, Any]:
    """Score the missing combinations, and return the content of the result file."""
    from fungi.scoring.evaluation_loop import evaluate
    from fungi.scoring.scorers import ClusterScorer

    return evaluate(
        settings,
        splits=lambda _: ("test",),
        combinations=all_combinations if settings.all_combinations else nested_chain,
        prepare=lambda run: ClusterScorer(settings, run, restarts=settings.restarts, seed=settings.seed),
    )


def show(settings: ClusterSettings, content: dict[str, Any]) -> None:
    """Print the table of scores."""
    print_gain_table({"matched clusters": content})
