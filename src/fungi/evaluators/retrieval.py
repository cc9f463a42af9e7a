"""Landmark retrieval under the protocols of revisited Oxford and Paris (spec vision 9.6).

| protocol | positives | ignored, as if absent from the ranking |
|---|---|---|
| easy | easy | junk, hard |
| medium | easy, hard | junk |
| hard | hard | junk, easy |

A query without positives has no score and is left out of the means.
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
LETTERS = {"easy": "E", "medium": "M", "hard": "H"}

Relevance = Mapping[str, Sequence[int]]
"""For one query, the `easy`, `hard` and `junk` rows of the database."""


@dataclass(frozen=True)
class ProtocolScores:
    """Scores under one protocol.

    average_precision: one value per query, None for a query without positives. precision_at: cut-off -> mean over
    queries.
    """

    average_precision: list[float | None]
    precision_at: dict[int, float]

    @property
    def mean_average_precision(self) -> float:
        """mAP over the queries that have positives."""
        return float(np.mean([value for value in self.average_precision if value is not None]))


def evaluate_protocol(
    ranking: Int64[np.ndarray, "q n"], truth: Sequence[Relevance], protocol: str, cutoffs: Sequence[int] = (1, 5, 10)
) -> ProtocolScores:
    """Score a ranking of the database. Raises FungiError if no query has positives."""
    relevant, irrelevant = PROTOCOLS[protocol]
    places: list[Int64[np.ndarray, " m"] | None] = []
    for order, relations in zip(ranking, truth, strict=True):
        positives, ignored = _rows(relations, relevant), _rows(relations, irrelevant)
        places.append(positions_of(order, positives, ignored) if len(positives) else None)
    scored = [positions for positions in places if positions is not None]
    if not scored:
        raise FungiError(f"no query has a positive under the {protocol} protocol: the ground truth is of another set.")
    precision = {
        cutoff: float(np.mean([precision_at(positions, cutoff) for positions in scored])) for cutoff in cutoffs
    }
    average = [None if positions is None else average_precision(positions) for positions in places]
    return ProtocolScores(average, precision)


def positions_of(
    order: Int64[np.ndarray, " n"], positives: Integer[np.ndarray, " m"], ignored: Integer[np.ndarray, " i"]
) -> Int64[np.ndarray, " m"]:
    """Return the zero-based ranks of the positives after the ignored rows are removed, ascending."""
    kept = order[~np.isin(order, ignored)]
    return np.flatnonzero(np.isin(kept, positives))


def average_precision(positions: Integer[np.ndarray, " m"]) -> float:
    """Return the area under the precision-recall curve by the trapezoidal rule.

    The j-th positive (from 0) at rank r raises recall by 1/m, between precisions j/r (1 at the top) and (j+1)/(r+1).
    """
    before = np.arange(len(positions))
    left = np.where(positions == 0, 1.0, before / np.maximum(positions, 1))
    right = (before + 1) / (positions + 1)
    return float(np.mean((left + right) / 2))


def precision_at(positions: Integer[np.ndarray, " m"], cutoff: int) -> float:
    """Return the share of positives among the first rows. The cut-off is at most the rank of the last positive."""
    reach = min(int(positions[-1]) + 1, cutoff)
    return float((positions < reach).sum() / reach)


def _rows(relations: Relevance, kinds: Sequence[str]) -> Int64[np.ndarray, " m"]:
    return np.concatenate([np.asarray(relations[kind], dtype=np.int64).reshape(-1) for kind in kinds])
