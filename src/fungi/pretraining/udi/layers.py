"""Layers beside the transformer: stratified random sampling (spec udi 2.3), and the prediction head (1.3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

EPSILON = 1e-6  # of all layer norms


class SampledAttention(nn.Module):
    """Attention of samples of a view to the whole view: queries are samples of the tokens, keys and values all of them.

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
        """Return samples in the context of their view; rows of invalid samples mean nothing."""
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


class Prototypes(nn.Module):
    """The last layer: a linear map without bias whose rows have the length `weight_g`, 1 at first."""

    def __init__(self, width: int, count: int, *, trained_length: bool) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(nn.Linear(width, count, bias=False).weight.detach().clone())
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=trained_length)

    @property
    def weight(self) -> Float[Tensor, "k w"]:
        """The effective weight, in float32 whatever the compute dtype: logits are W f.

        A row without length gives no number, as in the reference, and the step's loss then says so.
        """
        with torch.autocast(self.weight_v.device.type, enabled=False):
            return torch._weight_norm(self.weight_v, self.weight_g, 0)  # one pass


class Head(nn.Module):
    """Class tokens or patches -> unit vectors f, by one head for all.

    The logits of K prototypes are W f, and are formed only where a loss needs them.
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
        for inner, outer in ((width, hidden), (hidden, hidden)):
            layers += [nn.Linear(inner, outer), *([nn.BatchNorm1d(outer)] if batch_norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.last_layer = Prototypes(bottleneck, prototypes, trained_length=trained_length)

    def forward(self, tokens: Float[Tensor, "r d"]) -> Float[Tensor, "r w"]:
        """Return unit vectors of token representations, in float32."""
        return nn.functional.normalize(self.mlp(tokens).float(), dim=-1)
