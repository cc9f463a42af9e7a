"""Propagation of labels through a video by the similarity of patches (spec udi 7.6).

Axes: n patches of a frame (rows x columns), c frames of context, k labels, d features.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from fungi.search.exact import most_similar


def neighbourhood(rows: int, columns: int, radius: int) -> Bool[Tensor, "n n"] | None:
    """Return a mask of the pairs of patches that are within `radius` along both axes; None (all pairs) for radius 0."""
    if not radius:
        return None
    positions = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # [n 2]
    return ((positions[:, None] - positions[None]).abs() <= radius).all(-1)


def propagated_labels(
    frame: Float[Tensor, "n d"],
    context: Float[Tensor, "c n d"],
    labels: Float[Tensor, "c n k"],
    near: Bool[Tensor, "n n"] | None,
    *,
    temperature: float = 0.1,
    neighbours: int = 5,
) -> Float[Tensor, "n k"]:
    """Return the share of each label for each patch of a frame.

    The shares of a patch are the weighted mean of the labels of the most similar context patches. The weights are
    proportional to exp(cosine / T). neighbours: number of context patches in the mean.

    near: mask of the context patches that are compared with each patch; None: all patches.
    """
    keys = normalize(context, dim=-1).flatten(0, 1)  # [c*n d]
    excluded = None if near is None else ~near.repeat(1, len(context))
    similarities, indices = most_similar(normalize(frame, dim=-1), keys, neighbours, excluded)
    weights = (similarities / temperature).softmax(dim=1)
    return torch.einsum("nm,nmk->nk", weights, labels.flatten(0, 1)[indices])
