"""Landmark retrieval over every combination of features (spec vision 9.6)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float

from fungi.combine.names import all_combinations
from fungi.data.base import resolve_dataset
from fungi.errors import FungiError, RefusedJoinError
from fungi.evaluators.retrieval import LETTERS, PROTOCOLS, Relevance, evaluate_protocol, ranking_of
from fungi.report.gain_table import print_gain_table
from fungi.report.result_file import Scores
from fungi.scoring.evaluation_loop import Combined, Task, evaluate
from fungi.scoring.feature_files import SplitFiles
from fungi.scoring.feature_settings import FeatureSettings
from fungi.settings import setting
from fungi.store.layout import Layout

DESCRIPTION = """Landmark retrieval (revisited Oxford and Paris) over every combination of features.

  python retrieval_eval.py --dataset oxford-landmarks --backbone dino_vitb16 --data-dir data
  python retrieval_eval.py --dataset paris-landmarks --backbone dino_vitb16 --test-split test-cropped
"""
CROPPED = "test-cropped"
OLD_QUERY_SPLIT = "query"


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings(FeatureSettings):
    """Flags of `retrieval_eval.py`. The train split is the database, the test split the queries."""

    task: ClassVar[str] = "retrieval"

    dataset: str = setting("oxford-landmarks", "landmarks to search in", aliases=("--dataset-name",))
    test_split: str = setting(
        "test", f"queries: test (whole images, as published) or {CROPPED}", aliases=("--query-split",), mark="on-"
    )
    data_dir: Path = setting(
        Path("data"), "folder of the datasets, for the ground truth", aliases=("--cache-dir",), decides="nothing"
    )
    ground_truth: Path | None = setting(None, "ground truth as JSON, in place of the dataset's own file")
    renormalise_after_pca: bool = setting(False, "cosine in place of the inner product of PCA's output (as published)")
    cutoffs: tuple[int, ...] = setting(
        (1, 5, 10), "ranks for the mean precision", within=(1, 10**6), decides="contents", mark="cutoffs"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cutoffs or min(self.cutoffs) < 1:
            raise FungiError("--cutoffs needs ranks from 1 on.")


class RetrievalScorer:
    """One run: database and queries of one extraction. PCA is fitted on the database."""

    def __init__(self, settings: RetrievalSettings, task: Task) -> None:
        self._settings = settings
        queries = task.splits["test"]
        self.test_targets = queries.targets()
        self.sources = task.splits["train"].source(settings), queries.source(settings)
        self._truth = read_ground_truth(settings)
        self._check(queries)
        self._facts = _facts(queries)

    def score(self, features: Combined) -> Scores:
        """mAP and mean precision under the three protocols, with the average precision of each query."""
        ranking = ranking_of(self._similarities(features))
        scores: Scores = {}
        per_query = {}
        for protocol in PROTOCOLS:
            found = evaluate_protocol(ranking, self._truth, protocol, self._settings.cutoffs)
            scores[f"mAP-{LETTERS[protocol]}"] = found.mean_average_precision
            for cutoff, value in found.precision_at.items():
                scores[f"mP@{cutoff}-{LETTERS[protocol]}"] = value
            per_query[protocol] = found.average_precision
        fitted_on = {"pca_fitted_on": None if features.reduction.skipped else "database"}
        return {**scores, "AP": per_query, "protocol": self._facts | fitted_on}

    def warnings(self) -> list[str]:
        """Retrieval asks the ground truth, not the labels."""
        return []

    def _similarities(self, features: Combined) -> Float[np.ndarray, "q n"]:
        database, of_queries = self.sources
        queries = self._scaled(features.rows(of_queries)).double()
        similarities = np.empty((len(queries), len(database)))
        for place, block in features.blocks(database)():
            similarities[:, place] = (queries @ self._scaled(block).double().T).cpu().numpy()  # [q r] [r b] -> [q b]
        return similarities

    def _scaled(self, rows: Float[torch.Tensor, "b r"]) -> Float[torch.Tensor, "b r"]:
        return torch.nn.functional.normalize(rows, dim=1) if self._settings.renormalise_after_pca else rows

    def _check(self, queries: SplitFiles) -> None:
        """RefusedJoinError where the ground truth is of other queries or of a smaller database."""
        database, of_queries = self.sources
        rows, last = len(of_queries), max((max(rows, default=-1) for rows in _all_rows(self._truth)), default=-1)
        if len(self._truth) != rows:
            raise RefusedJoinError(
                f"row count differs: {rows} queries in {queries.targets_path}, {len(self._truth)} in the ground truth."
                " They have to be of the same set."
            )
        if last >= len(database):
            raise RefusedJoinError(
                f"the ground truth names database row {last}, but there are {len(database)} rows."
                " Features and ground truth have to be of the same set."
            )


def read_ground_truth(settings: RetrievalSettings) -> list[Relevance]:
    """Easy, hard and junk rows per query: from a JSON file, or from the dataset's own."""
    if settings.ground_truth is not None:
        return _from_json(settings.ground_truth)
    dataset = resolve_dataset(settings.dataset, settings.data_dir)
    if dataset.ground_truth is None:
        raise FungiError(
            f"dataset {dataset.name!r} has no ground truth for retrieval."
            " Use oxford-landmarks or paris-landmarks, or name a file with --ground-truth."
        )
    return cast(list[Relevance], dataset.ground_truth(settings.data_dir))


def _from_json(path: Path) -> list[Relevance]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FungiError(f"--ground-truth {path} can't be read as JSON: {error}") from None
    queries = content.get("ground_truth") if isinstance(content, dict) else content
    kinds = {"easy", "hard", "junk"}
    if not isinstance(queries, list) or not all(isinstance(query, dict) and kinds <= set(query) for query in queries):
        raise FungiError(f"--ground-truth {path} is no list of queries with the entries easy, hard and junk.")
    return queries


def _all_rows(truth: Sequence[Relevance]) -> list[Sequence[int]]:
    return [query[kind] for query in truth for kind in ("easy", "hard", "junk")]


def _facts(queries: SplitFiles) -> dict[str, Any]:
    """What the images looked like when they were encoded, as far as the files say it."""
    birth = next(iter(queries.arrays.values())).birth
    return {
        "queries": "unknown"
        if birth is None
        else "cropped to their boxes"
        if birth.split == CROPPED
        else "whole images",
        "input": "unknown" if birth is None else birth.input,
        "scales": [1.0],
    }


def run(settings: RetrievalSettings) -> dict[str, Any]:
    """Evaluate what is missing; the content of the result file."""
    settings = _with_old_query_files(settings)
    result = evaluate(
        settings,
        settings.task_name,
        splits=lambda _: ("train", "test"),
        combinations=all_combinations,
        prepare=lambda task: RetrievalScorer(settings, task),
    )
    return result.content()


def _with_old_query_files(settings: RetrievalSettings) -> RetrievalSettings:
    """The original harness calls the split of the queries `query`."""
    layout = Layout(settings.root[0])
    where = (settings.dataset_name, settings.backbone_name)
    absent = not layout.embeddings(*where, settings.test_split).exists()
    if absent and layout.embeddings(*where, OLD_QUERY_SPLIT).exists():
        return replace(settings, test_split=OLD_QUERY_SPLIT)
    return settings


def show(settings: RetrievalSettings, content: dict[str, Any]) -> None:
    """Print a table for each protocol of the paper."""
    for metric in ("mAP-M", "mAP-H"):
        print_gain_table({settings.dataset_name: content}, metric)
