"""Layers outside the transformer blocks: SRS, stratified random sampling (spec udi 2.3), and the head (1.3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

EPSILON = 1e-6  # epsilon of all layer norms


class SampledAttention(nn.Module):
    """The SRS layer: attention from sampled tokens of a view to all tokens of the view.

    The layer computes `LN(proj(softmax(A q k^T / sqrt d) v) + A Z)` from the tokens Z and the map A. The rows of A for
    valid samples sum to 1. For these rows, `A (Z W + b) = (A Z) W + b`. Tokens are therefore sampled first, and only
    the samples become queries.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, tokens: Float[Tensor, "b n d"], sampling: Float[Tensor, "b m n"]) -> Float[Tensor, "b m d"]:
        """Return the samples after attention to their view. The rows of invalid samples are not used."""
        width = tokens.shape[-1]
        sampled = torch.bmm(sampling.to(tokens.dtype), tokens)  # [b m n] [b n d] -> [b m d]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = self._split(nn.functional.linear(sampled, weight[:width], bias[:width]))
        key, value = (
            self._split(part) for part in nn.functional.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=-1)
        )
        attended = scaled_dot_product_attention(query, key, value)  # [b h m d/h]
        return self.norm(self.proj(attended.transpose(1, 2).flatten(2)) + sampled)

    def _split(self, rows: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n e"]:
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Prototypes(nn.Module):
    """The last layer: a linear map without bias. Its rows have the norm `weight_g`, which is initialised to 1.

    trained_length: whether `weight_g` is trained.
    """

    def __init__(self, width: int, count: int, *, trained_length: bool) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(nn.Linear(width, count, bias=False).weight.detach().clone())
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=trained_length)

    @property
    def weight(self) -> Float[Tensor, "k w"]:
        """Return the weight W of the logits W f, in float32 for every compute dtype.

        A row of norm 0 gives NaN, as in the published code. The training then stops, because the loss is not finite.
        """
        with torch.autocast(self.weight_v.device.type, enabled=False):
            return torch._weight_norm(self.weight_v, self.weight_g, 0)  # computed in a single pass


class Head(nn.Module):
    """The head of class tokens and patches, which maps them to unit vectors f.

    The logits of the K prototypes are W f. Only the losses compute the logits.
    """

    def __init__(
        self,
        width: int,
        prototypes: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        batch_norm: bool = False,
        trained_length: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((width, hidden), (hidden, hidden)):
            layers += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if batch_norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.last_layer = Prototypes(bottleneck, prototypes, trained_length=trained_length)

    def forward(self, tokens: Float[Tensor, "r d"]) -> Float[Tensor, "r w"]:
        """Return the unit vectors of tokens, in float32."""
        return nn.functional.normalize(self.mlp(tokens).float(), dim=-1)
