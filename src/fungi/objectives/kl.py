"""KL: divergence between the uniform distribution and the softmax of the head's output (spec vision 4.1)."""

from dataclasses import dataclass
from math import log
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.errors import FungiError
from fungi.objectives.base import Objective, Support, register


def kl_to_uniform(
    latents: Float[Tensor, "b l"], temperature: float, direction: str = "uniform_to_pred"
) -> Float[Tensor, " b"]:
    """Return the divergence between the softmax of `latents / temperature` and the uniform distribution.

    `uniform_to_pred` is KL(u || p), as in the published code; `pred_to_uniform` is KL(p || u), as in the paper. Here, p
    is the softmax and u the uniform distribution. At temperature 15, both divergences have almost the same gradient.
    """
    log_p = torch.log_softmax(latents / temperature, dim=-1)
    log_u = -log(latents.shape[-1])
    if direction == "uniform_to_pred":
        return (log_u - log_p).mean(dim=-1)
    return (log_p.exp() * (log_p - log_u)).sum(dim=-1)


@register
@dataclass(frozen=True, kw_only=True)
class KL(Objective):
    """The KL objective, with one view and one head. direction: see `kl_to_uniform`."""

    name = "kl"
    views = "plain"

    temperature: float = 15.0
    direction: Literal["uniform_to_pred", "pred_to_uniform"] = "uniform_to_pred"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in ("uniform_to_pred", "pred_to_uniform"):
            raise FungiError(f"kl.direction {self.direction!r} is not known. Use uniform_to_pred or pred_to_uniform.")

    def latent_loss(self, latents: Float[Tensor, "b v l"], support: Support) -> Float[Tensor, " b"]:
        """Return the divergence, averaged over views (KL has only one view)."""
        samples, views, _ = latents.shape
        divergences = kl_to_uniform(latents.flatten(0, 1), self.temperature, self.direction)
        return divergences.reshape(samples, views).mean(dim=1)
