"""k-nearest-neighbour classification: Euclidean distance, uniform majority vote, ties to the smallest label.

Exact: which rows are nearest is certain, and the same for all backends (`fungi.search.exact`).
"""

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from fungi.errors import FungiError
from fungi.search import Backend
from fungi.search.exact import nearest
from fungi.search.neighbours import Keys

_ROWS_AT_ONCE = 2048


def knn_predictions(
    train: Keys,
    train_targets: Integer[np.ndarray, " n"],
    queries: Float[Tensor, "q r"],
    k: int,
    backend: Backend = "torch",
) -> Integer[np.ndarray, " q"]:
    """Predicted label of each query. FungiError where there are fewer train rows than k."""
    return majority_vote(neighbour_labels(train, train_targets, queries, k, backend))


def neighbour_labels(
    train: Keys,
    train_targets: Integer[np.ndarray, " n"],
    queries: Float[Tensor, "q r"],
    k: int,
    backend: Backend = "torch",
) -> Integer[np.ndarray, "q k"]:
    """Labels of the k nearest train rows of each query. FungiError where there are fewer train rows than k."""
    if len(train_targets) < k:
        raise FungiError(
            f"k = {k} neighbours were asked for, but there are only {len(train_targets)} train rows. Use --k."
        )
    return train_targets[nearest(train, queries, k, backend=backend).rows.cpu().numpy()]


def majority_vote(labels: Integer[np.ndarray, "q k"]) -> Integer[np.ndarray, " q"]:
    """The label that occurs most often in each row; of ties the smallest."""
    known, codes = np.unique(labels, return_inverse=True)
    codes = codes.reshape(labels.shape)
    winners = np.empty(len(labels), dtype=known.dtype)
    for start in range(0, len(labels), _ROWS_AT_ONCE):
        tile = torch.from_numpy(codes[start : start + _ROWS_AT_ONCE])
        votes = torch.zeros(tile.shape[0], len(known), dtype=torch.int32)
        votes.scatter_add_(1, tile, torch.ones_like(tile, dtype=torch.int32))
        # numpy's argmax gives the first of equal counts, hence the smallest label.
        winners[start : start + _ROWS_AT_ONCE] = known[votes.numpy().argmax(axis=1)]
    return winners
