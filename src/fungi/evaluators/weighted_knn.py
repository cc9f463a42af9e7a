"""Weighted k-nearest-neighbour classification by cosine similarity, as self-supervised methods report it.

A neighbour of similarity s votes with weight exp(s / T). One search serves all values of k (spec udi 7.1).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor
from torch.nn.functional import normalize

from fungi.evaluators import TEMPERATURE
from fungi.evaluators.knn import require_train_rows
from fungi.search import Backend
from fungi.search.exact import most_similar, nearest
from fungi.search.neighbours import Keys

QUERIES_PER_TILE = 1024


def weighted_knn(
    train: Float[Tensor, "n d"],
    train_targets: Int64[Tensor, " n"],
    queries: Float[Tensor, "q d"],
    query_targets: Int64[Tensor, " q"],
    neighbours: Sequence[int],
    temperature: float = TEMPERATURE,
) -> dict[int, dict[str, float]]:
    """Return, for each k, `accuracy` and `top5` (of min(5, k) classes) as fractions. Features are L2-normalised first.

    Raises FungiError if there are fewer train rows than the largest k.
    """
    largest = max(neighbours)
    require_train_rows(len(train), largest)
    classes = int(torch.cat([train_targets, query_targets]).max()) + 1
    bank, right = normalize(train, dim=1), {k: [0, 0] for k in neighbours}
    for rows, targets in zip(queries.split(QUERIES_PER_TILE), query_targets.split(QUERIES_PER_TILE), strict=True):
        similarity, indices = most_similar(normalize(rows, dim=1), bank, largest)
        labels, weights = train_targets[indices], vote_weights(similarity, temperature)
        for k in neighbours:
            votes = _votes(labels[:, :k], weights[:, :k], classes)
            best = votes.topk(min(5, k, classes), dim=1).indices == targets[:, None]
            right[k][0] += int(best[:, 0].sum())
            right[k][1] += int(best.sum())
    return {k: {"accuracy": top1 / len(queries), "top5": top5 / len(queries)} for k, (top1, top5) in right.items()}


def weighted_predictions(
    train: Keys,
    train_targets: Integer[np.ndarray, " n"],
    queries: Float[Tensor, "q r"],
    k: int,
    *,
    temperature: float = TEMPERATURE,
    backend: Backend = "exact",
) -> tuple[Integer[np.ndarray, " q"], Float64[np.ndarray, " q"]]:
    """Return the label with the largest weight for each query (for ties, the smallest), and the share of label 1.

    The neighbours are the k rows of largest cosine. Raises FungiError if there are fewer train rows than k.
    """
    require_train_rows(len(train_targets), k)

    def normalised() -> Iterator[tuple[slice, Float[Tensor, "b r"]]]:
        for place, block in train():
            yield place, normalize(block, dim=1)

    matches = nearest(normalised, normalize(queries, dim=1), k, "inner-product", backend)
    labels = train_targets[matches.rows.cpu().numpy()]  # [q k]
    weights = vote_weights(matches.scores.cpu().double(), temperature)
    known, codes = np.unique(labels, return_inverse=True)
    winners, shares = np.empty(len(labels), dtype=known.dtype), np.empty(len(labels))
    parts = torch.from_numpy(codes.reshape(labels.shape)).split(QUERIES_PER_TILE), weights.split(QUERIES_PER_TILE)
    for number, (columns, of_rows) in enumerate(zip(*parts, strict=True)):
        place = slice(number * QUERIES_PER_TILE, number * QUERIES_PER_TILE + len(columns))
        votes = _votes(columns, of_rows, len(known)).numpy()
        winners[place] = known[votes.argmax(axis=1)]  # the first of equal votes, hence the smallest label
        shares[place] = votes[:, known == 1].sum(axis=1) / votes.sum(axis=1)
    return winners, shares


def vote_weights(similarity: Float[Tensor, "q k"], temperature: float) -> Float[Tensor, "q k"]:
    """Return exp(similarity / temperature), divided by the largest value of each row to avoid overflow."""
    return ((similarity - similarity.amax(dim=1, keepdim=True)) / temperature).exp()


def _votes(labels: Int64[Tensor, "q k"], weights: Float[Tensor, "q k"], classes: int) -> Float[Tensor, "q c"]:
    """Return the sum of the weights of each class, added in the order of the neighbours.

    One call per neighbour: a GPU adds the numbers of one `scatter_add_` to the same class in an order of its own, so
    that votes would differ from run to run.
    """
    votes, rows = weights.new_zeros(len(labels), classes), torch.arange(len(labels), device=labels.device)
    for column, of_column in zip(labels.unbind(dim=1), weights.unbind(dim=1), strict=True):
        votes[rows, column] += of_column
    return votes
