"""MAE: pixels of the patches that were left out, guessed by the model's own decoder (author response, to all)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded
from fungi.backbones.masked_autoencoder import Reconstruction
from fungi.errors import FungiError
from fungi.objectives.base import Objective, Support, register


def masked_squared_error(
    guess: Float[Tensor, "b v t f"], target: Float[Tensor, "b v t f"], mask: Bool[Tensor, "b v t"]
) -> Float[Tensor, " b"]:
    """Squared error of the pixels of masked patches: mean over a view's, then over views."""
    each = (guess - target).square().mean(dim=-1)  # [b v t]
    return ((each * mask).sum(dim=-1) / mask.sum(dim=-1)).mean(dim=-1)


@register
@dataclass(frozen=True, kw_only=True)
class MAE(Objective):
    """One view, of which the model sees as many patches as in its training. Its decoder stands for the random head."""

    name = "mae"
    views = "masked"
    encoder: ClassVar = Reconstruction

    normalize: bool = False
    project: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize or self.project or self.latent_dim != Objective.latent_dim:
            raise FungiError(
                "mae has no head but the decoder of the model: leave out mae.normalize, mae.project, mae.latent_dim."
            )

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """Return no head: the decoder takes its place."""
        return nn.ModuleDict()

    def loss(self, encoded: Encoded, heads: nn.ModuleDict, support: Support) -> Float[Tensor, " b"]:
        """Return mean squared error of the guessed pixels."""
        assert encoded.patches is not None
        assert encoded.target is not None
        assert encoded.mask is not None
        return masked_squared_error(encoded.patches, encoded.target, encoded.mask)
