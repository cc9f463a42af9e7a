"""What the families that timm provides have in common: building, fetching, and reading foreign key names."""

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

    size: a key of `SIZES`; embedding_dim: where it is not the width (joint image-text space). Gradients are projected
    to the width always.
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


def timm_fields(model: str, *, classifier: bool = False, **options: Any) -> dict[str, Any]:
    """`source`, `build`, `pretrained` and `convert` of a spec for a timm model, named with its tag.

    classifier: keep the outputs that it was published with (CLIP: the projection to the joint space). Otherwise the
        model is made with `num_classes=0`, and a head in the weights is dropped.
    """
    build = partial(build_timm, model, **options, **({} if classifier else {"num_classes": 0}))
    return {
        "source": f"timm {model}",
        "build": build,
        "pretrained": partial(fetch_timm, model, **options),
        "convert": partial(timm_names, build=build, keep_classifier=classifier),
    }


def build_timm(model: str, **options: Any) -> "nn.Module":
    """The architecture with timm's random initialisation."""
    import timm

    return timm.create_model(model, pretrained=False, **options)


def timm_input(config: Mapping[str, Any], size: int) -> ImageInput:
    """The evaluation transform of weights of timm (statistics, crop, interpolation) for an input size."""
    from timm.data import resolve_data_config

    resolved = resolve_data_config({}, pretrained_cfg=dict(config))
    fields: dict[str, Any] = {
        "size": size,
        "interpolation": "bilinear" if resolved["interpolation"] == "bilinear" else "bicubic",
        "statistics": (tuple(resolved["mean"]), tuple(resolved["std"])),
    }
    if resolved["crop_mode"] == "squash":
        return SquashedInput(resize=size, **fields)
    return ImageInput(resize=floor(size / resolved["crop_pct"]), **fields)


def timm_names(
    state: StateDict,
    *,
    build: Callable[[], "nn.Module"],
    keep_classifier: bool = False,
    heads: tuple[str, ...] = ("head.",),
) -> StateDict:
    """A state dict of the original authors or of OpenCLIP in timm's names, by timm's own rules.

    One that has timm's names already stays as it is. heads: prefixes of the classifier, which is dropped. FungiError
    where timm would quietly resample the weights to another resolution or patch size.
    """
    import torch

    with torch.device("meta"):
        model = build()
    if not keep_classifier:
        state = without_prefix(state, *heads)
    if set(state) == set(model.state_dict()):
        return state
    converted, sizes = _timm_filter(model)(dict(state), model), {tensor.numel() for tensor in state.values()}
    for name in ("pos_embed", "patch_embed.proj.weight"):
        if name in converted and converted[name].numel() not in sizes:  # as many entries as no tensor of the file
            raise FungiError(f"the checkpoint was trained for another resolution or patch size ({name} differs).")
    return converted if keep_classifier else without_prefix(converted, *heads)


def renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """A key or a layer path after regular expressions and their replacements, in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def without_prefix(state: StateDict, *prefixes: str) -> StateDict:
    """The state dict without the entries below some modules."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def _timm_filter(model: "nn.Module") -> Callable[[StateDict, "nn.Module"], StateDict]:
    """The function with which timm reads foreign checkpoints of this kind of model."""
    import sys

    module = sys.modules[type(model).__module__]
    if module.__name__.endswith(".vision_transformer"):
        return partial(module.checkpoint_filter_fn, adapt_layer_scale=True)  # DeiT III has gamma_1, gamma_2
    return getattr(module, "checkpoint_filter_fn", lambda state, model: state)
