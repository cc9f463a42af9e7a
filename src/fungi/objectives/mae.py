"""MAE: the decoder of the model predicts the pixels of masked patches (author response, part for all reviewers)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded
from fungi.backbones.masked_autoencoder import ReconstructionEncoder
from fungi.errors import FungiError
from fungi.objectives.base import Objective, Support, register


def masked_squared_error(
    prediction: Float[Tensor, "b v t f"], target: Float[Tensor, "b v t f"], mask: Bool[Tensor, "b v t"]
) -> Float[Tensor, " b"]:
    """Return the squared error of the pixels of masked patches, averaged per view and then over views.

    The axis f has the pixel values of a patch. mask: true for masked patches.
    """
    errors = (prediction - target).square().mean(dim=-1)  # [b v t]
    return ((errors * mask).sum(dim=-1) / mask.sum(dim=-1)).mean(dim=-1)


@register
@dataclass(frozen=True, kw_only=True)
class MAE(Objective):
    """The MAE objective: one view, masked as in the training of the model. The decoder replaces the random head."""

    name = "mae"
    views = "masked"
    encoder: ClassVar = ReconstructionEncoder

    normalize: bool = False
    project: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize or self.project or self.latent_dim != Objective.latent_dim:
            raise FungiError(
                "mae uses the decoder of the model instead of a head: remove mae.normalize, mae.project and"
                " mae.latent_dim."
            )

    def heads(self, embedding_dim: int, seed: int) -> nn.ModuleDict:
        """Return an empty dictionary, because the decoder replaces the heads."""
        return nn.ModuleDict()

    def loss(self, encoded: Encoded, heads: nn.ModuleDict, support: Support) -> Float[Tensor, " b"]:
        """Return the mean squared error of the predicted pixels."""
        assert encoded.patches is not None
        assert encoded.target is not None
        assert encoded.mask is not None
        return masked_squared_error(encoded.patches, encoded.target, encoded.mask)
