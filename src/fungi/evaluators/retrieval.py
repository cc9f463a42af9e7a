"""Landmark retrieval under the protocols of revisited Oxford and Paris (spec vision 9.6).

| protocol | positives | ignored (removed from the ranking) |
|---|---|---|
| easy | easy | junk, hard |
| medium | easy, hard | junk |
| hard | hard | junk, easy |

A query without positives has no score, and the means do not include it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer

from fungi.errors import FungiError

PROTOCOLS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""Protocol -> (kinds of rows that are positives, kinds of rows that are ignored)."""
LETTERS = {"easy": "E", "medium": "M", "hard": "H"}
"""Protocol -> its letter in the names of scores, such as `mAP-M`."""

Relevance = Mapping[str, Sequence[int]]
"""The `easy`, `hard` and `junk` rows of the database for a query."""


@dataclass(frozen=True)
class ProtocolScores:
    """Scores under a protocol.

    average_precision: one value per query; None for a query without positives.
    precision_at: cut-off -> mean precision over queries.
    """

    average_precision: list[float | None]
    precision_at: dict[int, float]

    @property
    def mean_average_precision(self) -> float:
        """Mean average precision (mAP) over the queries that have positives."""
        return float(np.mean([value for value in self.average_precision if value is not None]))


def evaluate_protocol(
    ranking: Int64[np.ndarray, "q n"], truth: Sequence[Relevance], protocol: str, cutoffs: Sequence[int] = (1, 5, 10)
) -> ProtocolScores:
    """Return the scores of a ranking of the database. Raises FungiError if no query has positives.

    ranking: rows of the database, best first. truth: relevant rows of each query. cutoffs: for `precision_at`.
    """
    positive_kinds, ignored_kinds = PROTOCOLS[protocol]
    positions_of_queries: list[Int64[np.ndarray, " positives"] | None] = []
    for order, relevance in zip(ranking, truth, strict=True):
        positives, ignored = _rows(relevance, positive_kinds), _rows(relevance, ignored_kinds)
        positions_of_queries.append(positions_of(order, positives, ignored) if len(positives) else None)
    scored = [positions for positions in positions_of_queries if positions is not None]
    if not scored:
        raise FungiError(f"no query has a positive under the {protocol} protocol: the ground truth is of another set.")
    precision = {
        cutoff: float(np.mean([precision_at(positions, cutoff) for positions in scored])) for cutoff in cutoffs
    }
    average = [None if positions is None else average_precision(positions) for positions in positions_of_queries]
    return ProtocolScores(average, precision)


def positions_of(
    order: Int64[np.ndarray, " n"],
    positives: Integer[np.ndarray, " positives"],
    ignored: Integer[np.ndarray, " ignored"],
) -> Int64[np.ndarray, " positives"]:
    """Return the zero-based ranks of the positives after the ignored rows are removed, ascending."""
    ranked = order[~np.isin(order, ignored)]
    return np.flatnonzero(np.isin(ranked, positives))


def average_precision(positions: Integer[np.ndarray, " positives"]) -> float:
    """Return the area under the precision-recall curve by the trapezoidal rule.

    Let positive number j (from 0) have rank r (from 0), and let there be m positives. Each positive increases recall by
    1/m. Precision is j/r before this positive (1 if r = 0), and (j+1)/(r+1) after this positive.
    """
    earlier_positives = np.arange(len(positions))
    precision_before = np.where(positions == 0, 1.0, earlier_positives / np.maximum(positions, 1))
    precision_after = (earlier_positives + 1) / (positions + 1)
    return float(np.mean((precision_before + precision_after) / 2))


def precision_at(positions: Integer[np.ndarray, " positives"], cutoff: int) -> float:
    """Return the share of positives among the first rows.

    The rows end at the cut-off, or at the last positive if this comes earlier.
    """
    rows = min(int(positions[-1]) + 1, cutoff)
    return float((positions < rows).sum() / rows)


def _rows(relevance: Relevance, kinds: Sequence[str]) -> Int64[np.ndarray, " rows"]:
    """Return the database rows of some kinds, for example `easy` and `hard`."""
    return np.concatenate([np.asarray(relevance[kind], dtype=np.int64).reshape(-1) for kind in kinds])
