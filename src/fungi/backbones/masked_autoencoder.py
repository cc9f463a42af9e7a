"""Masked autoencoders of `transformers`, with the decoder that they were trained with.

The embedding is that of the whole image. For the loss of `fungi.objectives.mae` the model takes the other way: most
patches are left out, and the decoder guesses their pixels (He et al. 2022).
"""

from functools import partial
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded, WholeModel
from fungi.errors import FungiError
from fungi.views.base import Inputs

MASKED_AUTOENCODER = "vit_mae"
"""What their configuration says they are."""


def masked_autoencoder(config: Any, *, mean: bool = False) -> nn.Module:
    """The architecture with this configuration of `transformers`: images `[n c h w]` -> embeddings `[n d]`.

    mean: of all tokens, in place of the class token.
    """
    from transformers import ViTMAEForPreTraining

    def forward(self: Any, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        hidden = self.vit(images).last_hidden_state  # [n 1+t d]
        return hidden.mean(dim=1) if mean else hidden[:, 0]

    model = type("ViTMAEForPreTraining", (ViTMAEForPreTraining,), {"forward": forward})(config)
    embeddings = model.vit.embeddings
    embeddings.random_masking = partial(_masked_by_noise_alone, embeddings.random_masking)
    return model


class Reconstruction(WholeModel):
    """Patches through encoder and decoder; FungiError for models without a decoder of their own."""

    path = "encoder of the visible patches, and decoder"

    def __init__(self, model: nn.Module) -> None:
        if not all(hasattr(model, name) for name in ("vit", "decoder", "patchify")):
            raise FungiError(
                f"a {type(model).__name__} has no decoder of pixels: mae needs a masked autoencoder with the decoder "
                "that it was trained with. Use --backbone mae-vit-b16-decoder, or NAME=hf:FOLDER with a model of type "
                f"{MASKED_AUTOENCODER}."
            )
        super().__init__(model)

    def __call__(self, inputs: Inputs, /) -> Encoded:
        """Encode `images` `[m c h w]`, of which those patches are seen that have the least `noise` `[m t]`.

        The share of patches, and whether pixels are normalised patch by patch, are those of the model's training.
        """
        assert isinstance(inputs, dict), "views for this encoder draw noise"
        model: Any = self.model
        images, noise = inputs["images"], inputs["noise"]
        pixels = model.patchify(images)  # [m t pixels]
        if noise.shape != pixels.shape[:2]:
            raise FungiError(
                f"the views have {noise.shape[1]} patches, the model {pixels.shape[1]}. Set the objective's patch_size "
                "(as in --set mae.patch_size=16) to that of the model."
            )
        seen = model.vit(images, noise=noise)
        guess = model.decoder(seen.last_hidden_state, seen.ids_restore).logits
        target = _normalized(pixels) if model.config.norm_pix_loss else pixels
        return Encoded(seen.last_hidden_state[:, 0], guess, seen.mask.bool(), target)


def _normalized(pixels: Float[Tensor, "m t pixels"]) -> Float[Tensor, "m t pixels"]:
    """Mean and variance of each patch taken out, as in training."""
    variance, mean = pixels.var(dim=-1, keepdim=True), pixels.mean(dim=-1, keepdim=True)
    return (pixels - mean) / (variance + 1e-6).sqrt()


def _masked_by_noise_alone(
    masking: Any, patches: Float[Tensor, "n t d"], noise: Float[Tensor, "n t"] | None = None
) -> tuple[Float[Tensor, "n kept d"], Float[Tensor, "n t"], Int64[Tensor, "n t"]]:
    """The library's own masking where noise is given. Without, it would draw some: every patch is kept instead."""
    if noise is not None:
        return masking(patches, noise)
    places = patches.new_zeros(patches.shape[:2])
    return patches, places, places.long()
