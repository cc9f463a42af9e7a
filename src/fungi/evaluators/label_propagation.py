"""Labels that travel through a video along the similarity of patches (spec udi 7.6).

Axes: n patches of a frame (rows x columns), c frames of context, k labels, d features.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from fungi.search.exact import most_similar


def neighbourhood(rows: int, columns: int, radius: int) -> Bool[Tensor, "n n"] | None:
    """Return which patches lie within `radius` of each other along both axes; None, no restriction, for radius 0."""
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
    """Return shares of labels for each patch of a frame: the mean over its most similar patches of the context,
    weighted by exp(cosine / T). Patches outside the neighbourhood `near` are left out; None leaves out none.
    """
    keys = normalize(context, dim=-1).flatten(0, 1)  # [c*n d]
    far = None if near is None else ~near.repeat(1, len(context))
    similarities, places = most_similar(normalize(frame, dim=-1), keys, neighbours, far)
    weights = (similarities / temperature).softmax(dim=1)
    return torch.einsum("nm,nmk->nk", weights, labels.flatten(0, 1)[places])
