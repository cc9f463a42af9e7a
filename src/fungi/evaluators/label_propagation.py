"""Labels that travel through a video along the similarity of patches (spec udi 7.6).

Axes: n patches of a frame (rows x columns), c frames of context, k labels, d features.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from fungi.search.exact import most_similar


def neighbourhood(rows: int, columns: int, radius: int) -> Bool[Tensor, "n n"]:
    """Which patches lie within `radius` of each other, along both axes."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # [n 2]
    return ((places[:, None] - places[None]).abs() <= radius).all(-1)


def propagated(
    frame: Float[Tensor, "n d"],
    context: Float[Tensor, "c n d"],
    labels: Float[Tensor, "c n k"],
    near: Bool[Tensor, "n n"],
    *,
    temperature: float = 0.1,
    neighbours: int = 5,
) -> Float[Tensor, "n k"]:
    """Shares of labels for each patch of a frame: the mean over its most similar patches of the context, weighted by
    exp(cosine / T); patches farther away than the neighbourhood are left out.
    """
    keys = normalize(context, dim=-1).flatten(0, 1)  # [c*n d]
    best, places = most_similar(normalize(frame, dim=-1), keys, neighbours, ~near.repeat(1, len(context)))
    weights = (best / temperature).softmax(dim=1)
    return torch.einsum("nm,nmk->nk", weights, labels.flatten(0, 1)[places])
