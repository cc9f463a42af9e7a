"""Stratified random sampling as a layer: samples of a view attend to the whole view (spec udi 2.3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

EPSILON = 1e-6  # of all layer norms


class SampledAttention(nn.Module):
    """Attention whose queries are samples of the tokens; keys and values are all of them.

    `LN(proj(softmax(A q k^T / sqrt d) v) + A Z)`. A row of the map A sums to 1 where its sample is valid, and then
    `A (Z W + b) = (A Z) W + b`: tokens are sampled first, and queries are formed for the samples alone.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, tokens: Float[Tensor, "b n d"], sampling: Float[Tensor, "b m n"]) -> Float[Tensor, "b m d"]:
        """Samples in the context of their view; rows of invalid samples mean nothing."""
        width = tokens.shape[-1]
        sampled = torch.bmm(sampling.to(tokens.dtype), tokens)  # [b m n] [b n d] -> [b m d]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = self._split(nn.functional.linear(sampled, weight[:width], bias[:width]))
        key, value = (
            self._split(part) for part in nn.functional.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=-1)
        )
        mixed = scaled_dot_product_attention(query, key, value)  # [b h m d/h]
        return self.norm(self.proj(mixed.transpose(1, 2).flatten(2)) + sampled)

    def _split(self, rows: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n e"]:
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)
