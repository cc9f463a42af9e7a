"""SimCLR's loss over many tokens and its closed-form derivative, in one pass over the similarities (spec dense 4.2).

The t latents q_i and the negatives n_k have length one. T is the temperature, and S the temperature of the denominator:

    L = mean_i [ log Z_i - sum_{j != i} q_i.q_j / (T (t - 1)) ]
    Z_i = sum_k e^(q_i.n_k / S) + sum_{j != i} e^(q_i.q_j / S)

    t dL/dq_i = (1/S) [ sum_k e^(q_i.n_k / S) n_k / Z_i + sum_{j != i} e^(q_i.q_j / S) q_j (1/Z_i + 1/Z_j) ]
                - 2 sum_{j != i} q_j / (T (t - 1))

The attraction (the second sum of L) needs no similarities. The similarities of the denominator are computed once, in
tiles of tokens. The loss and its derivative use the same exponentials. Autograd would read the t x (t + m) matrix of
similarities a dozen times.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_TILE_TOKENS = 256  # the similarities of this number of tokens to 2,000 keys fit into the cache of a core


def contrast(
    latents: Float[Tensor, "t l"],
    negatives: Float[Tensor, "m l"],
    temperature: float,
    denominator_temperature: bool = True,
) -> Float[Tensor, ""]:
    """Return the InfoNCE loss of the tokens of one image against its negatives, as `info_nce` does for one sample.

    The image must have at least two tokens. No gradient flows to the negatives. Without `denominator_temperature`, the
    similarities in the log-sum-exp are not divided by the temperature (spec dense 6, H2).
    """
    scale = temperature if denominator_temperature else 1.0
    loss: Tensor = _Contrast.apply(normalize(latents, dim=-1), normalize(negatives, dim=-1), temperature, scale)
    return loss


class _Contrast(torch.autograd.Function):
    """Autograd function that computes loss and derivative in its forward pass; its backward scales the derivative."""

    @staticmethod
    def forward(
        context: Any, queries: Float[Tensor, "t l"], negatives: Float[Tensor, "m l"], temperature: float, scale: float
    ) -> Float[Tensor, ""]:
        value, derivative = _value_and_derivative(queries, negatives, temperature, scale)
        context.save_for_backward(derivative)
        return value

    @staticmethod
    def backward(context: Any, weight: Float[Tensor, ""]) -> tuple[Float[Tensor, "t l"], None, None, None]:
        (derivative,) = context.saved_tensors
        return weight * derivative, None, None, None


def _value_and_derivative(
    queries: Float[Tensor, "t l"], negatives: Float[Tensor, "m l"], temperature: float, scale: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "t l"]]:
    """Return L and dL/dq of the module's formulas. scale: the temperature S of the denominator."""
    count = len(queries)
    keys = torch.cat([queries, negatives])  # [t+m l]
    log_sum = torch.zeros((), dtype=queries.dtype, device=queries.device)
    repulsion = torch.zeros_like(queries)
    for start in range(0, count, _TILE_TOKENS):
        tile = slice(start, min(start + _TILE_TOKENS, count))
        similarities = (queries[tile] / scale) @ keys.T  # [s l] x [l t+m]
        similarities.diagonal(start).fill_(-torch.inf)  # omits the similarity of a token to itself
        largest = similarities.amax(dim=1, keepdim=True)
        weights = similarities.sub_(largest).exp_()
        total = weights.sum(dim=1, keepdim=True)
        log_sum += (total.log() + largest).sum()
        repulsion[tile] += (weights @ keys) / total  # terms with the token as query
        repulsion += weights[:, :count].T @ (queries[tile] / total)  # terms with the token as key
    query_sum = queries.sum(dim=0)
    attraction = ((query_sum * query_sum).sum() - (queries * queries).sum()) / (temperature * (count - 1))
    value = (log_sum - attraction) / count
    attraction_derivative = (query_sum - queries) * (2 / (temperature * (count - 1)))
    return value, (repulsion / scale - attraction_derivative) / count
