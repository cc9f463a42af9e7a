"""UDI: vision transformers with two class tokens, from published checkpoints or from `fungi pretrain` (spec udi 6).

The embedding is the first class token. The second class token, `cls+`, takes part in attention. In timm's model, `cls+`
is a register, so that the shortcut of `fungi.backbones.pooled_token` can be used. This program cannot download the
published files, because they are on Google Drive. Download a file with a browser and use `--checkpoint FILE`.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from fungi.backbones.base import StateDict, register_backbone
from fungi.errors import FungiError, counted
from fungi.views.image import IMAGENET, ImageInput

if TYPE_CHECKING:
    from torch import nn

CLASS_TOKENS = {2: "", 1: "-one-token"}
"""Number of class tokens in a file -> ending of the name of the backbone."""


def encoder_state(state: StateDict) -> StateDict:
    """Return the weights of the transformer in a checkpoint of any layout, without prefixes (spec udi 6.3).

    Full checkpoints have the prefix `backbone.backbone.`. Their heads, and the layer of stratified random sampling
    (SRS), are dropped.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for prefix in ("backbone.backbone.", "backbone."):
        if f"{prefix}cls_token" in state:
            return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return state


def timm_tokens(state: StateDict) -> StateDict:
    """Convert a state dict without prefixes to timm's names: the second class token becomes the register.

    Raises FungiError if there is no class token, or if there are more than two.
    """
    token = state.get("cls_token")
    if token is None:
        raise FungiError("the checkpoint has no cls_token: it does not contain a vision transformer of this method.")
    if "reg_token" in state or token.shape[1] == 1:
        return state
    if token.shape[1] > 2:
        raise FungiError(f"the checkpoint has {token.shape[1]} class tokens; the method has one or two.")
    return state | {"cls_token": token[:, :1], "reg_token": token[:, 1:]}


def one_token(state: StateDict) -> StateDict:
    """Return the state dict without the second class token and its position, for fine-tuning.

    The model then computes another function, because `cls+` took part in attention (spec udi 6.3).
    """
    import torch

    weights = {name: tensor for name, tensor in state.items() if name != "reg_token"}
    positions = state["pos_embed"]  # [1 tokens+t d]
    weights["cls_token"] = state["cls_token"][:, :1]
    weights["pos_embed"] = torch.cat([positions[:, :1], positions[:, _count_tokens(state) :]], dim=1)
    return weights


def patches_only(state: StateDict) -> StateDict:
    """Return the state dict without class tokens and their positions, for tasks that use only patches."""
    weights = {name: tensor for name, tensor in state.items() if name not in ("cls_token", "reg_token")}
    return weights | {"pos_embed": state["pos_embed"][:, _count_tokens(state) :]}


def _count_tokens(state: StateDict) -> int:
    """Return the number of class tokens, including one that is stored as a register."""
    return state["cls_token"].shape[1] + int("reg_token" in state)


def timm_weights(state: StateDict, *, name: str, class_tokens: int) -> StateDict:
    """Convert a checkpoint of any layout to timm's names.

    name, class_tokens: name of the backbone and its number of class tokens. Raises FungiError if the checkpoint has
    another number of class tokens.
    """
    weights = timm_tokens(encoder_state(state))
    count = _count_tokens(weights)
    if count != class_tokens:
        raise FungiError(
            f"the checkpoint has {counted(count, 'class token')}, but {name} has {class_tokens}. "
            f"Use --backbone {name.removesuffix('-one-token')}{CLASS_TOKENS[count]}."
        )
    return weights


def build(
    width: int, depth: int, heads: int, mlp_ratio: float, size: int, patch: int, class_tokens: int
) -> "nn.Module":
    """Return timm's vision transformer. Positions are scaled as in DINO, because the code of UDI is based on DINO.

    width: number of entries of a token. mlp_ratio: width of the hidden layer of the MLP, divided by `width`.
    depth, heads, class_tokens: numbers of blocks, of attention heads and of class tokens.
    size, patch: sides of an image and of a patch in pixels.
    """
    from timm.models.vision_transformer import VisionTransformer

    model: Any = VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        num_classes=0,
        reg_tokens=class_tokens - 1,
    )
    model.position_scaling = "hub"
    return model


for _name, _label, _width, _depth, _heads, _ratio, _size, _resize, _patch, _pca in (
    ("udi-vits16", "UDI ViT-S/16", 384, 12, 6, 4.0, 224, 256, 16, 384),
    ("udi-vitt16", "UDI ViT-T/16", 192, 12, 3, 4.0, 224, 256, 16, 192),
    ("udi-vitb16", "UDI ViT-B/16", 768, 12, 12, 4.0, 224, 256, 16, 512),
    ("udi-micro", "UDI ViT-micro/4", 64, 3, 4, 2.0, 32, 32, 4, 64),
):
    for _tokens, _ending in CLASS_TOKENS.items():
        register_backbone(
            name=_name + _ending,
            label=_label + (", one class token" if _ending else ""),
            source="checkpoint of UDI (ISL-CV/udi) or of fungi pretrain",
            embedding_dim=_width,
            projection_dim=_width,
            layer=f"blocks.{_depth - 1}.attn.proj",
            weight_shape=(_width, _width),
            pca_dim=_pca,
            depth=_depth,
            patch_size=_patch,
            input=ImageInput(size=_size, resize=_resize, statistics=IMAGENET),
            build=partial(build, _width, _depth, _heads, _ratio, _size, _patch, _tokens),
            convert=partial(timm_weights, name=_name + _ending, class_tokens=_tokens),
            notes="needs --checkpoint FILE",
        )
