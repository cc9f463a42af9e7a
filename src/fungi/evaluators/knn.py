"""k-nearest-neighbour classification with Euclidean distance and a majority vote.

If several labels have the same number of votes, the smallest label wins. The search is exact: all back-ends return the
same rows (`fungi.search.exact`).
"""

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from fungi.combine.names import counted_rows
from fungi.errors import FungiError
from fungi.search import Backend
from fungi.search.exact import nearest
from fungi.search.neighbours import Keys, in_memory

_ROWS_AT_ONCE = 2048
"""Number of queries whose votes are counted together, to use little memory."""


def knn_predictions(
    train: Keys,
    train_targets: Integer[np.ndarray, " n"],
    queries: Float[Tensor, "q r"],
    k: int,
    backend: Backend = "exact",
) -> Integer[np.ndarray, " q"]:
    """Return the predicted label of each query. Raises FungiError if there are fewer train rows than k."""
    return majority_vote(neighbour_labels(train, train_targets, queries, k, backend))


def neighbour_labels(
    train: Keys,
    train_targets: Integer[np.ndarray, " n"],
    queries: Float[Tensor, "q r"],
    k: int,
    backend: Backend = "exact",
) -> Integer[np.ndarray, "q k"]:
    """Return the labels of the k nearest train rows of each query. Raises FungiError for fewer train rows than k."""
    require_train_rows(len(train_targets), k)
    return train_targets[nearest(train, queries, k, backend=backend).rows.cpu().numpy()]


def require_train_rows(rows: int, k: int) -> None:
    """Raise FungiError if there are fewer train rows than k."""
    if rows < k:
        raise FungiError(f"k = {k} is too large: only {counted_rows(rows)} can vote. Use a smaller --k.")


def majority_vote(labels: Integer[np.ndarray, "q k"]) -> Integer[np.ndarray, " q"]:
    """Return the most frequent label of each row. If several labels are equally frequent, return the smallest."""
    classes, codes = np.unique(labels, return_inverse=True)
    codes = codes.reshape(labels.shape)
    winners = np.empty(len(labels), dtype=classes.dtype)
    for start in range(0, len(labels), _ROWS_AT_ONCE):
        codes_of_rows = torch.from_numpy(codes[start : start + _ROWS_AT_ONCE])
        votes = torch.zeros(len(codes_of_rows), len(classes), dtype=torch.int32)
        votes.scatter_add_(1, codes_of_rows, torch.ones_like(codes_of_rows, dtype=torch.int32))
        # argmax of numpy returns the first of equal counts, which belongs to the smallest label.
        winners[start : start + _ROWS_AT_ONCE] = classes[votes.numpy().argmax(axis=1)]
    return winners


def other_labels(rows: Float[Tensor, "n r"], targets: Integer[np.ndarray, " n"], k: int) -> Integer[np.ndarray, "n k"]:
    """Return the labels of the k nearest other rows of each row, nearest first; k has to be smaller than n."""
    assert k < len(rows), "every row needs k other rows"
    indices = nearest(in_memory(rows), rows, k + 1).rows.cpu()  # [n k+1], including the row itself
    is_itself = indices == torch.arange(len(rows)).unsqueeze(1)
    # With more than k duplicates, the row itself may not be among its neighbours; then the last neighbour is dropped.
    dropped = torch.where(is_itself.any(dim=1), is_itself.int().argmax(dim=1), k)
    is_kept = torch.arange(k + 1).expand(len(rows), -1) != dropped.unsqueeze(1)
    return targets[indices[is_kept].reshape(len(rows), k).numpy()]


def votes_by_k(labels: Integer[np.ndarray, "q k"]) -> list[Integer[np.ndarray, " q"]]:
    """Return the majority labels among the first neighbour, the first two neighbours, and so on up to all k."""
    return [majority_vote(labels[:, :count]) for count in range(1, labels.shape[1] + 1)]
