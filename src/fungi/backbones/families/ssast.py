"""SSAST base, patch variant: pre-trained on AudioSet and LibriSpeech by predicting masked patches (spec audio 1)."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from fungi.backbones.base import BACKBONES, BackboneSpec, StateDict
from fungi.backbones.sources import fetch_url, random_weights
from fungi.errors import FungiError
from fungi.views.sound import SoundInput

if TYPE_CHECKING:
    from torch import nn

FILE = "SSAST-Base-Patch-400.pth"
URL = f"https://www.dropbox.com/s/ewrzpco95n9jdz6/{FILE}?dl=1"
UNUSED = ("cpredlayer.", "gpredlayer.", "mask_embed", "v.head", "p_input_fdim", "p_input_tdim")
"""Starts of names in the published file that the model does not have."""
TRAINED_ON = {"p_input_fdim": 128, "p_input_tdim": 1024}
"""Input size of the pre-training: number of mel bands, and number of frames."""
TINY = {"width": 96, "depth": 2, "heads": 3}
"""Sizes of `tiny-ssast`."""
TINY_SEED = 42


def ssast_names(state: StateDict) -> StateDict:
    """Convert the names of the published file to the names of `SpectrogramTransformer`.

    The names of the file have the prefix `module.`, which data-parallel training adds. A state dict with the names of
    the model is returned unchanged.
    Raises FungiError for a model that was pre-trained with another input size, because its positions have another grid.
    """
    if "cls_token" in state:
        return state
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for name, expected in TRAINED_ON.items():
        if name in state and int(state[name]) != expected:
            raise FungiError(f"the checkpoint has {name} = {int(state[name])}; only {expected} is supported.")
    encoder = {name.removeprefix("v."): tensor for name, tensor in state.items() if not name.startswith(UNUSED)}
    kernel = encoder.get("patch_embed.proj.weight")
    if kernel is not None and kernel.shape[1] > 1:  # a kernel for colour images; a spectrogram has one channel
        encoder["patch_embed.proj.weight"] = kernel.sum(dim=1, keepdim=True)
    return encoder


def build(pooling: str, sizes: dict[str, int]) -> "nn.Module":
    """Return the architecture with random initialisation.

    pooling: as in `SpectrogramTransformer`. sizes: width, depth and number of attention heads.
    """
    from fungi.backbones.spectrogram_transformer import SpectrogramTransformer

    arguments: dict[str, Any] = {**sizes, "pooling": pooling}
    return SpectrogramTransformer(**arguments)


def _register(name: str, pooling: str, *, sizes: dict[str, int], **fields: Any) -> None:
    """Register a backbone. pooling, sizes: as in `build`. fields: other fields of the `BackboneSpec`."""
    sound_input = SoundInput()
    width = sizes["width"]
    spec = BackboneSpec(
        name=name,
        modality="audio",
        input=sound_input,
        # The input of sounds also contains a setting of the loss of SimCLR, which differs in the published code (U1).
        published_input=replace(sound_input, denominator_temperature=False),
        embedding_dim=width,
        projection_dim=width,
        layer=f"blocks.{sizes['depth'] - 1}.attn.proj",
        weight_shape=(width, width),
        pca_dim=min(width, 512),
        depth=sizes["depth"],
        build=partial(build, pooling, sizes),
        convert=ssast_names,
        # The published code used only the first token's part of the gradient, although the embedding of "cls_dist" is
        # the mean of the class token and the distillation token (U2).
        first_token_gradient=pooling == "cls_dist",
        **fields,
    )
    BACKBONES.register(name, spec)


BASE: dict[str, Any] = {
    "sizes": {"width": 768, "depth": 12, "heads": 12},
    "source": URL,
    "pretrained": partial(fetch_url, URL),
}
_register("patch-ssast", "cls_dist", label="SSAST base, patch", **BASE)
_register("patch-ssast-mean", "mean_patches", label="SSAST base, patch (mean of patches)", **BASE)
_register(
    "tiny-ssast",
    "cls_dist",
    label="tiny SSAST, random weights",
    source=f"random initialisation, seed {TINY_SEED}",
    sizes=TINY,
    pretrained=partial(random_weights, partial(build, "cls_dist", TINY), TINY_SEED, "tiny-ssast"),
    notes="never trained: a control that needs no download",
)
