"""The prediction head that class tokens and patches share (spec udi 1.3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Prototypes(nn.Module):
    """The last layer: a linear map without bias whose rows have the length `weight_g`, 1 at first."""

    def __init__(self, width: int, count: int, *, trained_length: bool) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(nn.Linear(width, count, bias=False).weight.detach().clone())
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=trained_length)

    @property
    def weight(self) -> Float[Tensor, "k w"]:
        """The effective weight, in float32 whatever the compute dtype: logits are W f."""
        with torch.autocast(self.weight_v.device.type, enabled=False):
            return self.weight_g * nn.functional.normalize(self.weight_v, dim=1)


class Head(nn.Module):
    """Tokens -> unit vectors f; the logits of K prototypes are W f, and are formed only where a loss needs them."""

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
        """Unit vectors of token representations, in float32."""
        return nn.functional.normalize(self.mlp(tokens).float(), dim=-1)
