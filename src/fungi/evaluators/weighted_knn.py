"""Weighted k-nearest-neighbour classification by cosine similarity, as in papers on self-supervised learning.

The vote of a neighbour with similarity s has the weight exp(s / T). One search serves all values of k (spec udi 7.1).
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
"""Number of queries whose similarities are computed together."""


def weighted_knn(
    train: Float[Tensor, "n d"],
    train_targets: Int64[Tensor, " n"],
    queries: Float[Tensor, "q d"],
    query_targets: Int64[Tensor, " q"],
    neighbours: Sequence[int],
    temperature: float = TEMPERATURE,
) -> dict[int, dict[str, float]]:
    """Return for each k the fractions `accuracy` and `top5` (top-5 accuracy; for k < 5, top-k accuracy).

    Features are L2-normalised first. Raises FungiError if there are fewer train rows than the largest k.
    """
    largest = max(neighbours)
    require_train_rows(len(train), largest)
    classes = int(torch.cat([train_targets, query_targets]).max()) + 1
    bank = normalize(train, dim=1)
    # Numbers of correct queries: top 1, top 5. They stay on the device: a copy to the CPU waits for the GPU.
    correct = {k: torch.zeros(2, dtype=torch.int64, device=train.device) for k in neighbours}
    for rows, targets in zip(queries.split(QUERIES_PER_TILE), query_targets.split(QUERIES_PER_TILE), strict=True):
        similarity, indices = most_similar(normalize(rows, dim=1), bank, largest)
        labels, weights = train_targets[indices], vote_weights(similarity, temperature)
        for k in correct:  # each k once, even if `neighbours` names it twice
            votes = _votes(labels[:, :k], weights[:, :k], classes)
            is_target = votes.topk(min(5, k, classes), dim=1).indices == targets[:, None]
            correct[k] += torch.stack([is_target[:, 0].sum(), is_target.sum()])
    shares = {k: (counts.cpu().double() / len(queries)).tolist() for k, counts in correct.items()}
    return {k: {"accuracy": top1, "top5": top5} for k, (top1, top5) in shares.items()}


def weighted_predictions(
    train: Keys,
    train_targets: Integer[np.ndarray, " n"],
    queries: Float[Tensor, "q r"],
    k: int,
    *,
    temperature: float = TEMPERATURE,
    backend: Backend = "exact",
) -> tuple[Integer[np.ndarray, " q"], Float64[np.ndarray, " q"]]:
    """Return for each query the label with the largest weight, and the share of label 1 in the weights.

    If several labels have the same weight, the smallest label wins. The neighbours are the k rows with the largest
    cosines. Raises FungiError if there are fewer train rows than k.
    """
    require_train_rows(len(train_targets), k)

    def normalised_train() -> Iterator[tuple[slice, Float[Tensor, "b r"]]]:
        for rows, block in train():
            yield rows, normalize(block, dim=1)

    matches = nearest(normalised_train, normalize(queries, dim=1), k, "inner-product", backend)
    labels = train_targets[matches.rows.cpu().numpy()]  # [q k]
    weights = vote_weights(matches.scores.cpu().double(), temperature)
    classes, flat_codes = np.unique(labels, return_inverse=True)
    codes = torch.from_numpy(flat_codes.reshape(labels.shape))
    winners, shares = np.empty(len(labels), dtype=classes.dtype), np.empty(len(labels))
    for start in range(0, len(labels), QUERIES_PER_TILE):
        part = slice(start, start + QUERIES_PER_TILE)
        votes = _votes(codes[part], weights[part], len(classes)).numpy()
        winners[part] = classes[votes.argmax(axis=1)]  # the first of equal votes, which belongs to the smallest label
        shares[part] = votes[:, classes == 1].sum(axis=1) / votes.sum(axis=1)
    return winners, shares


def vote_weights(similarity: Float[Tensor, "q k"], temperature: float) -> Float[Tensor, "q k"]:
    """Return exp(similarity / temperature), divided by the largest value in its row to avoid overflow."""
    return ((similarity - similarity.amax(dim=1, keepdim=True)) / temperature).exp()


def _votes(labels: Int64[Tensor, "q k"], weights: Float[Tensor, "q k"], classes: int) -> Float[Tensor, "q c"]:
    """Return the sum of the weights of each class, added in the order of the neighbours.

    Neighbours are added one after the other, because `scatter_add_` on a GPU adds in an arbitrary order. Votes would
    then differ between runs.
    """
    votes = weights.new_zeros(len(labels), classes)
    rows = torch.arange(len(labels), device=labels.device)
    for neighbour_labels, neighbour_weights in zip(labels.unbind(dim=1), weights.unbind(dim=1), strict=True):
        votes[rows, neighbour_labels] += neighbour_weights
    return votes
