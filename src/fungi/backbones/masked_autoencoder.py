"""Masked autoencoders of `transformers`, with their decoder.

The embedding is computed from all patches. For the loss of `fungi.objectives.mae`, the encoder gets only a few patches,
and the decoder predicts the pixels of the other patches (He et al. 2022).
"""

from functools import partial
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded, WholeModel
from fungi.errors import FungiError
from fungi.views.base import Inputs

MASKED_AUTOENCODER = "vit_mae"
"""`model_type` of masked autoencoders in their configuration."""


def masked_autoencoder(config: Any, *, mean: bool = False) -> nn.Module:
    """Return a model that maps images `[n c h w]` to embeddings `[n d]`.

    config: configuration of the model in `transformers`. mean: use the mean of all tokens instead of the class token.
    """
    from transformers import ViTMAEForPreTraining

    def forward(self: Any, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        hidden = self.vit(images).last_hidden_state  # [n 1+t d]
        return hidden.mean(dim=1) if mean else hidden[:, 0]

    model = type("ViTMAEForPreTraining", (ViTMAEForPreTraining,), {"forward": forward})(config)
    embeddings = model.vit.embeddings
    embeddings.random_masking = partial(_mask_only_with_noise, embeddings.random_masking)
    return model


class ReconstructionEncoder(WholeModel):
    """Encoder that also predicts the pixels of masked patches. Raises FungiError for models without a pixel decoder."""

    computed_part = "encoder of the visible patches, and decoder"

    def __init__(self, model: nn.Module) -> None:
        if not all(hasattr(model, name) for name in ("vit", "decoder", "patchify")):
            raise FungiError(
                f"a {type(model).__name__} has no pixel decoder: mae needs a masked autoencoder with the decoder "
                "that it was trained with. Use --backbone mae-vit-b16-decoder, or NAME=hf:FOLDER with a model of type "
                f"{MASKED_AUTOENCODER}."
            )
        super().__init__(model)

    def __call__(self, inputs: Inputs, /) -> Encoded:
        """Encode only the patches with the smallest noise, and predict the pixels of all patches.

        inputs: dictionary with `images` `[m c h w]` and `noise` `[m t]`, one random number per patch.
        The configuration of the model determines the share of masked patches, and whether the pixels of each patch are
        normalised.
        """
        assert isinstance(inputs, dict), "the views of this encoder need noise"
        model: Any = self.model
        images, noise = inputs["images"], inputs["noise"]
        pixels = model.patchify(images)  # [m t pixels]
        if noise.shape != pixels.shape[:2]:
            raise FungiError(
                f"the views have {noise.shape[1]} patches, but the model has {pixels.shape[1]}. Set patch_size of the "
                "objective to the patch size of the model (for example --set mae.patch_size=16)."
            )
        output = model.vit(images, noise=noise)  # of the visible patches
        prediction = model.decoder(output.last_hidden_state, output.ids_restore).logits
        target = _normalized(pixels) if model.config.norm_pix_loss else pixels
        return Encoded(output.last_hidden_state[:, 0], prediction, output.mask.bool(), target)


def _normalized(pixels: Float[Tensor, "m t pixels"]) -> Float[Tensor, "m t pixels"]:
    """Return the pixels of each patch with mean 0 and variance 1, as in training."""
    variance, mean = pixels.var(dim=-1, keepdim=True), pixels.mean(dim=-1, keepdim=True)
    return (pixels - mean) / (variance + 1e-6).sqrt()  # 1e-6 as in the loss of `transformers`


def _mask_only_with_noise(
    masking: Any, patches: Float[Tensor, "n t d"], noise: Float[Tensor, "n t"] | None = None
) -> tuple[Float[Tensor, "n visible d"], Float[Tensor, "n t"], Int64[Tensor, "n t"]]:
    """Return (visible patches, mask, order of the patches for the decoder).

    masking: the function of the library, which masks patches even without noise. Here, all patches are visible without
    noise. The order is then all zeros, because no decoder runs.
    """
    if noise is not None:
        return masking(patches, noise)
    zeros = patches.new_zeros(patches.shape[:2])
    return patches, zeros, zeros.long()
