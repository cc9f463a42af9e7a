"""Shared code of the families that use models of timm: build models, download weights, convert other key names."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import floor
from typing import TYPE_CHECKING, Any

from fungi.backbones.base import BACKBONES, BackboneSpec, StateDict
from fungi.backbones.sources import fetch_timm
from fungi.errors import FungiError
from fungi.views.image import ImageInput, SquashedInput

if TYPE_CHECKING:
    from torch import nn

SIZES = {
    "S": (384, 12, 384),
    "B": (768, 12, 512),
    "L": (1024, 24, 512),
    "So400m": (1152, 27, 512),
    "H": (1280, 32, 512),
    "G": (1536, 40, 512),
}
"""Width, number of blocks and PCA size of the Vision Transformers (spec vision 2.1)."""


def register_vit(
    name: str, *, size: str, patch_size: int = 16, embedding_dim: int | None = None, **fields: Any
) -> BackboneSpec:
    """Register a ViT in timm's layout. The gradient source is the attention output projection of the last block.

    size: key of `SIZES`. patch_size: side of a patch in pixels. fields: other fields of the `BackboneSpec`.
    embedding_dim: size of the embedding, if it differs from the width of the tokens (for CLIP, the size of the joint
    image-text space). Gradients are always projected to the width.
    """
    width, depth, pca_dim = SIZES[size]
    spec = BackboneSpec(
        name=name,
        embedding_dim=embedding_dim or width,
        projection_dim=width,
        layer=f"blocks.{depth - 1}.attn.proj",
        weight_shape=(width, width),
        pca_dim=pca_dim,
        depth=depth,
        patch_size=patch_size,
        **fields,
    )
    return BACKBONES.register(name, spec)


def timm_fields(model: str, *, keep_classifier: bool = False, **options: Any) -> dict[str, Any]:
    """Return the fields `source`, `build`, `pretrained` and `convert` of a `BackboneSpec` for a model of timm.

    model: name of the model, with the tag of the weights.
    keep_classifier: keep the published output layer (for CLIP, the projection to the joint space). Otherwise, the model
        is built with `num_classes=0`, and the output layer in the weights is dropped.
    options: other arguments of `timm.create_model`.
    """
    outputs: dict[str, Any] = {} if keep_classifier else {"num_classes": 0}
    build = partial(build_timm, model, **options, **outputs)
    return {
        "source": f"timm {model}",
        "build": build,
        "pretrained": partial(fetch_timm, model, **options),
        "convert": partial(timm_names, build=build, keep_classifier=keep_classifier),
    }


def build_timm(model: str, **options: Any) -> "nn.Module":
    """Return a model of timm with random initialisation. options: arguments of `timm.create_model`."""
    import timm

    return timm.create_model(model, pretrained=False, **options)


def timm_input(config: Mapping[str, Any], size: int) -> ImageInput:
    """Return the evaluation transform (statistics, crop, interpolation) that timm records for weights.

    config: timm's record of the weights. size: side of the input images in pixels.
    """
    from timm.data import resolve_data_config

    transform = resolve_data_config({}, pretrained_cfg=dict(config))
    fields: dict[str, Any] = {
        "size": size,
        "interpolation": "bilinear" if transform["interpolation"] == "bilinear" else "bicubic",
        "statistics": (tuple(transform["mean"]), tuple(transform["std"])),
    }
    if transform["crop_mode"] == "squash":
        return SquashedInput(resize=size, **fields)
    return ImageInput(resize=floor(size / transform["crop_pct"]), **fields)


def timm_names(
    state: StateDict,
    *,
    build: Callable[[], "nn.Module"],
    keep_classifier: bool = False,
    heads: tuple[str, ...] = ("head.",),
) -> StateDict:
    """Convert a state dict of the original authors or of OpenCLIP to timm's names, with the rules of timm.

    A state dict that already has timm's names is returned unchanged.

    build: function that returns the model.
    keep_classifier: whether the model has the classifier of the weights. If not, the classifier is dropped.
    heads: prefixes of the names of the classifier.
    Raises FungiError if timm would resample the weights to another resolution or patch size without a warning.
    """
    import torch

    with torch.device("meta"):
        model = build()
    if not keep_classifier:
        state = without_prefix(state, *heads)
    if set(state) == set(model.state_dict()):
        return state
    convert = _timm_conversion(model)
    converted = convert(dict(state), model)
    original_sizes = {tensor.numel() for tensor in state.values()}
    for name in ("pos_embed", "patch_embed.proj.weight"):
        if name in converted and converted[name].numel() not in original_sizes:  # timm has resampled this tensor
            raise FungiError(f"the checkpoint was trained for another resolution or patch size ({name} differs).")
    return converted if keep_classifier else without_prefix(converted, *heads)


def renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """Return a key or layer path after all replacements. rules: pairs (regular expression, replacement)."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def without_prefix(state: StateDict, *prefixes: str) -> StateDict:
    """Return the state dict without the entries whose names start with one of the prefixes."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def _timm_conversion(model: "nn.Module") -> Callable[[StateDict, "nn.Module"], StateDict]:
    """Return the function of timm that converts checkpoints with other names for this kind of model."""
    import sys

    module = sys.modules[type(model).__module__]
    if module.__name__.endswith(".vision_transformer"):
        return partial(module.checkpoint_filter_fn, adapt_layer_scale=True)  # DeiT III has gamma_1, gamma_2
    return getattr(module, "checkpoint_filter_fn", lambda state, model: state)
