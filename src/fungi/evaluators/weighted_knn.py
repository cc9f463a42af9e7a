"""Weighted k-nearest-neighbour classification by cosine similarity, as self-supervised methods report it.

A neighbour of similarity s votes with exp(s / T); all numbers of neighbours come from one search (spec udi 7.1).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from fungi.errors import FungiError
from fungi.search.exact import most_similar

TILE = 1024


def weighted_knn(
    train: Float[Tensor, "n d"],
    train_targets: Int64[Tensor, " n"],
    queries: Float[Tensor, "q d"],
    query_targets: Int64[Tensor, " q"],
    neighbours: Sequence[int],
    temperature: float = 0.07,
) -> dict[int, dict[str, float]]:
    """k -> `accuracy` and `top5` (of min(5, k) classes), as shares. Features are normalised here.

    Raises FungiError where there are fewer train rows than the largest k.
    """
    largest = max(neighbours)
    if len(train) < largest:
        raise FungiError(
            f"k = {largest} neighbours were asked for, but there are only {len(train)} train rows. Use --k."
        )
    classes = int(torch.cat([train_targets, query_targets]).max()) + 1
    bank, right = normalize(train, dim=1), {k: [0, 0] for k in neighbours}
    for rows, targets in zip(queries.split(TILE), query_targets.split(TILE), strict=True):
        similarity, nearest = most_similar(normalize(rows, dim=1), bank, largest)
        # Over the nearest one's vote, so that none is infinite.
        labels, weights = train_targets[nearest], ((similarity - similarity[:, :1]) / temperature).exp()
        for k in neighbours:
            votes = weights.new_zeros(len(rows), classes).scatter_add_(1, labels[:, :k], weights[:, :k])
            best = votes.topk(min(5, k, classes), dim=1).indices == targets[:, None]
            right[k][0] += int(best[:, 0].sum())
            right[k][1] += int(best.sum())
    return {k: {"accuracy": top1 / len(queries), "top5": top5 / len(queries)} for k, (top1, top5) in right.items()}
