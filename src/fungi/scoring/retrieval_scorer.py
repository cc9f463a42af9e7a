"""Landmark retrieval with one combination: rank the full database for each query."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float

from fungi.data.base import resolve_dataset
from fungi.errors import FungiError, RefusedJoinError, counted
from fungi.evaluators.retrieval import LETTERS, PROTOCOLS, Relevance, evaluate_protocol
from fungi.results.result_file import Scores
from fungi.scoring.evaluation_loop import CombinedFeatures, EvaluationRun
from fungi.scoring.feature_files import SplitFiles
from fungi.scoring.feature_settings import FeatureSettings
from fungi.search.exact import all_ranked

CROPPED = "test-cropped"
KINDS = {"easy", "hard", "junk"}


class RetrievalScorer:
    """Scorer of the combinations of one run, with its database and queries. PCA is fitted on the database.

    truth: easy, hard and junk rows of each query. cutoffs: ranks k of the mean precision at k.
    by_cosine: whether to rank by cosine after PCA instead of by inner product.
    """

    def __init__(
        self,
        settings: FeatureSettings,
        run: EvaluationRun,
        truth: Sequence[Relevance],
        *,
        cutoffs: Sequence[int],
        by_cosine: bool,
    ) -> None:
        self._truth, self._cutoffs, self._by_cosine = truth, cutoffs, by_cosine
        queries = run.splits["test"]
        self.test_targets = queries.targets()
        self.sources = run.splits["train"].source(settings), queries.source(settings)
        self._check(queries)
        self._facts = _facts(queries)

    def score(self, features: CombinedFeatures) -> Scores:
        """Return mAP, mean precision and the average precision of each query, for easy, medium and hard queries."""
        database, queries = self.sources
        read_blocks = features.blocks(database)

        def keys() -> Iterator[tuple[slice, Float[torch.Tensor, "b r"]]]:
            for rows, block in read_blocks():
                yield rows, self._normalised(block)

        ranking = all_ranked(keys, self._normalised(features.rows(queries)))
        scores: Scores = {}
        per_query = {}
        for protocol in PROTOCOLS:
            result = evaluate_protocol(ranking, self._truth, protocol, self._cutoffs)
            scores[f"mAP-{LETTERS[protocol]}"] = result.mean_average_precision
            for cutoff, value in result.precision_at.items():
                scores[f"mP@{cutoff}-{LETTERS[protocol]}"] = value
            per_query[protocol] = result.average_precision
        fitted_on = {"pca_fitted_on": None if features.reduction.skipped else "database"}
        return {**scores, "AP": per_query, "protocol": self._facts | fitted_on}

    def warnings(self) -> list[str]:
        """Return no warnings: those of other scorers are about labels, and retrieval does not use labels."""
        return []

    def _normalised(self, rows: Float[torch.Tensor, "b r"]) -> Float[torch.Tensor, "b r"]:
        """Return rows of unit length to rank by cosine, otherwise the unchanged rows."""
        return torch.nn.functional.normalize(rows, dim=1) if self._by_cosine else rows

    def _check(self, queries: SplitFiles) -> None:
        """Raise RefusedJoinError if the ground truth belongs to other queries or to a larger database."""
        database, query_source = self.sources
        rows = len(query_source)
        largest_row = max((row for query in self._truth for kind in KINDS for row in query[kind]), default=-1)
        if len(self._truth) != rows:
            raise RefusedJoinError(
                f"row count differs: {queries.targets_path} has {counted(rows, 'query')}, but the "
                f"ground truth has {len(self._truth)}."
                " Use features and ground truth of the same dataset."
            )
        if largest_row >= len(database):
            raise RefusedJoinError(
                f"the ground truth names row {largest_row} of the database, but the database has only "
                f"{counted(len(database), 'row')}."
                " Use features and ground truth of the same dataset."
            )


def read_ground_truth(dataset: str, data_dir: Path, file: Path | None) -> list[Relevance]:
    """Return the easy, hard and junk rows of each query.

    file: JSON file with the rows; None for the ground truth of the dataset.
    """
    if file is not None:
        return _from_json(file)
    spec = resolve_dataset(dataset, data_dir)
    if spec.ground_truth is None:
        raise FungiError(
            f"dataset {spec.name!r} has no ground truth for retrieval."
            " Use oxford-landmarks or paris-landmarks, or give a file with --ground-truth."
        )
    return cast(list[Relevance], spec.ground_truth(data_dir))


def _from_json(path: Path) -> list[Relevance]:
    """Return the ground truth in a JSON file. Raises FungiError if the file has no such content."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FungiError(f"--ground-truth {path} can't be read as JSON: {error}") from None
    queries = content.get("ground_truth") if isinstance(content, dict) else content
    if not isinstance(queries, list) or not all(isinstance(query, dict) and set(query) >= KINDS for query in queries):
        raise FungiError(f"--ground-truth {path} is not a list of queries with the entries easy, hard and junk.")
    return queries


def _facts(queries: SplitFiles) -> dict[str, Any]:
    """Return facts about the encoding of the query images. Without provenance, the facts are `unknown`.

    scales: factors by which the images are resized before they are encoded. Each image is encoded once, without
    resizing by a factor.
    """
    provenance = next(iter(queries.arrays.values())).provenance
    if provenance is None:
        return {"queries": "unknown", "input": "unknown", "scales": [1.0]}
    images = "cropped to their boxes" if provenance.split == CROPPED else "whole images"
    return {"queries": images, "input": provenance.input, "scales": [1.0]}
