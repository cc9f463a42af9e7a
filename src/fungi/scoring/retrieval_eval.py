"""Landmark retrieval over every combination of features (spec vision 9.6)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from fungi.combine.names import all_combinations
from fungi.errors import FungiError
from fungi.results.text import print_gain_table
from fungi.scoring.feature_settings import FeatureSettings
from fungi.settings import setting
from fungi.store.layout import Layout

DESCRIPTION = """Landmark retrieval (revisited Oxford and Paris) over every combination of features.

  python retrieval_eval.py --dataset oxford-landmarks --backbone dino_vitb16 --data-dir data
  python retrieval_eval.py --dataset paris-landmarks --backbone dino_vitb16 --test-split test-cropped
"""
PUBLISHED_QUERY_SPLIT = "query"


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings(FeatureSettings):
    """Flags of `retrieval_eval.py`. The train split is the database, the test split the queries."""

    task: ClassVar[str] = "retrieval"

    dataset: str = setting("oxford-landmarks", "dataset of landmarks", aliases=("--dataset-name",), topic="data")
    test_split: str = setting(
        "test",
        "split of the queries: test (full images, as published) or test-cropped",
        aliases=("--query-split", "--split"),
        word_in_file_name="on-",
        topic="data",
    )
    data_dir: Path = setting(
        Path("data"),
        "folder of the datasets with their ground truth",
        aliases=("--cache-dir",),
        affects="nothing",
        topic="data",
    )
    ground_truth: Path | None = setting(None, "JSON file with another ground truth", topic="data")
    renormalise_after_pca: bool = setting(False, "rank by cosine after PCA instead of by inner product (as published)")
    cutoffs: tuple[int, ...] = setting(
        (1, 5, 10),
        "ranks k of the mean precision at k",
        within=(1, 10**6),
        affects="which_results",
        word_in_file_name="cutoffs",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cutoffs:
            raise FungiError("--cutoffs needs at least one rank.")

    def with_existing_queries(self) -> "RetrievalSettings":
        """Return the settings with the query split that exists.

        The published code names this split `query` instead of `test`. If no flag names the split, and only `query` has
        files, the split is `query`.
        """
        layout = Layout(self.root[0])
        has_test, has_query = (
            layout.embeddings(self.dataset_name, self.backbone_name, split).exists()
            for split in ("test", PUBLISHED_QUERY_SPLIT)
        )
        is_default = self.test_split == "test" and not self.takes_files
        if is_default and has_query and not has_test:
            return replace(self, test_split=PUBLISHED_QUERY_SPLIT)
        return self

    def result_path(self, task: str | None = None) -> Path:
        """Return the result file, named after the query split that exists."""
        return super(RetrievalSettings, self.with_existing_queries()).result_path(task)

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the content of the result file, with the query split that exists."""
        return super(RetrievalSettings, self.with_existing_queries()).identity()


def run(settings: RetrievalSettings) -> dict[str, Any]:
    """Score the missing combinations, and return the content of the result file."""
    from fungi.scoring.evaluation_loop import evaluate
    from fungi.scoring.retrieval_scorer import RetrievalScorer, read_ground_truth

    settings = settings.with_existing_queries()
    return evaluate(
        settings,
        combinations=all_combinations,
        prepare=lambda run: RetrievalScorer(
            settings,
            run,
            read_ground_truth(settings.dataset, settings.data_dir, settings.ground_truth),
            cutoffs=settings.cutoffs,
            by_cosine=settings.renormalise_after_pca,
        ),
    )


def show(settings: RetrievalSettings, content: dict[str, Any]) -> None:
    """Print a table for each difficulty that the paper reports: medium and hard."""
    for metric in ("mAP-M", "mAP-H"):
        print_gain_table({settings.dataset_name: content}, metric)
