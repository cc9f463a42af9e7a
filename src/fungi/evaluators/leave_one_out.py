"""Nearest neighbours among the other rows: kNN judged on the rows that it is fitted on, each left out in its turn."""

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from fungi.evaluators.knn import majority_vote
from fungi.search.exact import nearest
from fungi.search.neighbours import in_memory


def other_labels(rows: Float[Tensor, "n r"], targets: Integer[np.ndarray, " n"], k: int) -> Integer[np.ndarray, "n k"]:
    """Labels of the k nearest other rows of each row, nearest first; k has to be smaller than n."""
    assert k < len(rows), "every row needs k others"
    found = nearest(in_memory(rows), rows, k + 1).rows.cpu()  # [n k+1], the row itself among them
    own = found == torch.arange(len(rows)).unsqueeze(1)
    # Where equal rows took all places, the row itself is not among them: then the last one goes.
    left_out = torch.where(own.any(dim=1), own.int().argmax(dim=1), k)
    kept = torch.arange(k + 1).expand(len(rows), -1) != left_out.unsqueeze(1)
    return targets[found[kept].reshape(len(rows), k).numpy()]


def votes_by_k(labels: Integer[np.ndarray, "q k"]) -> list[Integer[np.ndarray, " q"]]:
    """What the first neighbour says, the first two, ..., all k."""
    return [majority_vote(labels[:, :count]) for count in range(1, labels.shape[1] + 1)]
