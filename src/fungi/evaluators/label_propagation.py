"""Propagation of labels through a video by the similarity of patches (spec udi 7.6).

Axes: n patches of a frame (rows x columns), c frames of context, k labels, d features.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from fungi.search.exact import most_similar


def neighbourhood(rows: int, columns: int, radius: int) -> Bool[Tensor, "n n"] | None:
    """Return which patches are within `radius` of each other along both axes, or None (no restriction) for radius 0."""
    if not radius:
        return None
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # [n 2]
    return ((places[:, None] - places[None]).abs() <= radius).all(-1)


def propagated(
    frame: Float[Tensor, "n d"],
    context: Float[Tensor, "c n d"],
    labels: Float[Tensor, "c n k"],
    near: Bool[Tensor, "n n"] | None,
    *,
    temperature: float = 0.1,
    neighbours: int = 5,
) -> Float[Tensor, "n k"]:
    """Return the label shares of each patch: the mean over its most similar context patches, weights exp(cosine / T).

    near: patches to compare with each patch; None for all.
    """
    keys = normalize(context, dim=-1).flatten(0, 1)  # [c*n d]
    far = None if near is None else ~near.repeat(1, len(context))
    similarities, places = most_similar(normalize(frame, dim=-1), keys, neighbours, far)
    weights = (similarities / temperature).softmax(dim=1)
    return torch.einsum("nm,nmk->nk", weights, labels.flatten(0, 1)[places])
