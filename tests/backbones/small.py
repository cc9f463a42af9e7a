"""Small versions of the architectures, and checkpoints in the key names of their publishers.

The names are copied from the published files, not from the code under test.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from safetensors.torch import save_file
from torch import Tensor, nn

from fungi.backbones.base import BACKBONES, BackboneSpec

WIDTH, DEPTH, HEADS, PATCH, SIZE = 32, 2, 2, 8, 32  # sides of patches and images in pixels
GRID = SIZE // PATCH  # patches per side
SMALL = "dino_vitb16"  # the fixture `small_backbone` gives it a small architecture

# Name of a tensor -> its shape.
Shapes = dict[str, tuple[int, ...]]


def timm_vit(**options: object) -> nn.Module:
    """Return a Vision Transformer of timm with 4 x 4 patches."""
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    return VisionTransformer(**{**sizes, "num_classes": 0, **options})


def shrink(
    monkeypatch: pytest.MonkeyPatch, name: str, build: Callable[[], nn.Module] = timm_vit, **changes: Any
) -> BackboneSpec:
    """Replace the architecture of a registered backbone with a small one until the end of the test.

    changes: other fields of the `BackboneSpec` to replace. Without `convert`, the converter of the backbone is used.
    """
    spec = replace(BACKBONES[name], build=build, **changes)
    monkeypatch.setitem(BACKBONES._entries, name, spec)
    return spec


def shrink_timm(monkeypatch: pytest.MonkeyPatch, name: str, build: Callable[[], nn.Module]) -> BackboneSpec:
    """Do the same as `shrink` for a backbone whose converter also builds the model."""
    convert = BACKBONES[name].convert
    assert isinstance(convert, partial)
    return shrink(monkeypatch, name, build, convert=partial(convert.func, **{**convert.keywords, "build": build}))


def with_slow_marks(kind: Callable[[BackboneSpec], Hashable], names: Iterable[str]) -> list[ParameterSet]:
    """Return all names as parameters of a test. All are marked `slow`, except the smallest backbone of each kind.

    kind: function that returns the kind of a backbone.
    """
    by_width = sorted(names, key=lambda name: (BACKBONES[name].embedding_dim, name))
    smallest = {
        kind(BACKBONES[name]): name for name in reversed(by_width)
    }  # the last name of a kind replaces the others
    return [pytest.param(name, marks=[] if name in smallest.values() else pytest.mark.slow) for name in by_width]


def save(folder: Path, state: object, name: str = "weights.pth") -> Path:
    """Save a checkpoint in the format that the file extension names, and return its path."""
    (save_file if name.endswith("safetensors") else torch.save)(state, folder / name)
    return folder / name


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Return random tensors of these shapes, with small values."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def block_shapes(prefix: str, *, layer_scale: bool = False) -> Shapes:
    """Return the shapes of a block in the naming of DINO, MoCo v3, MAE and timm."""
    shapes: Shapes = {}
    for norm in ("norm1", "norm2"):
        shapes |= {f"{prefix}{norm}.weight": (WIDTH,), f"{prefix}{norm}.bias": (WIDTH,)}
    for layer, outputs, inputs in (
        ("attn.qkv", 3 * WIDTH, WIDTH),
        ("attn.proj", WIDTH, WIDTH),
        ("mlp.fc1", 4 * WIDTH, WIDTH),
        ("mlp.fc2", WIDTH, 4 * WIDTH),
    ):
        shapes |= {f"{prefix}{layer}.weight": (outputs, inputs), f"{prefix}{layer}.bias": (outputs,)}
    if layer_scale:
        shapes |= {f"{prefix}ls1.gamma": (WIDTH,), f"{prefix}ls2.gamma": (WIDTH,)}
    return shapes


def vit_shapes(prefix: str = "", *, grid: int = GRID, layer_scale: bool = False) -> Shapes:
    """Return the shapes of a Vision Transformer in the naming of DINO, MoCo v3, MAE and timm."""
    shapes: Shapes = {
        f"{prefix}cls_token": (1, 1, WIDTH),
        f"{prefix}pos_embed": (1, 1 + grid**2, WIDTH),
        f"{prefix}patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        f"{prefix}patch_embed.proj.bias": (WIDTH,),
        f"{prefix}norm.weight": (WIDTH,),
        f"{prefix}norm.bias": (WIDTH,),
    }
    for index in range(DEPTH):
        shapes |= block_shapes(f"{prefix}blocks.{index}.", layer_scale=layer_scale)
    return shapes


def torchvision_shapes() -> Shapes:
    """Return the shapes of a Vision Transformer in published files of torchvision, which have layers `mlp.linear_1`."""
    shapes: Shapes = {
        "class_token": (1, 1, WIDTH),
        "conv_proj.weight": (WIDTH, 3, PATCH, PATCH),
        "conv_proj.bias": (WIDTH,),
        "encoder.pos_embedding": (1, 1 + GRID**2, WIDTH),
        "encoder.ln.weight": (WIDTH,),
        "encoder.ln.bias": (WIDTH,),
        "heads.head.weight": (10, WIDTH),
        "heads.head.bias": (10,),
    }
    for index in range(DEPTH):
        block = f"encoder.layers.encoder_layer_{index}"
        shapes |= {f"{block}.{norm}.{kind}": (WIDTH,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes |= {
            f"{block}.self_attention.in_proj_weight": (3 * WIDTH, WIDTH),
            f"{block}.self_attention.in_proj_bias": (3 * WIDTH,),
            f"{block}.self_attention.out_proj.weight": (WIDTH, WIDTH),
            f"{block}.self_attention.out_proj.bias": (WIDTH,),
            f"{block}.mlp.linear_1.weight": (4 * WIDTH, WIDTH),
            f"{block}.mlp.linear_1.bias": (4 * WIDTH,),
            f"{block}.mlp.linear_2.weight": (WIDTH, 4 * WIDTH),
            f"{block}.mlp.linear_2.bias": (WIDTH,),
        }
    return shapes


def openai_clip_shapes(joint_dim: int = 16) -> Shapes:
    """Return the shapes of the image encoder, and of a part of the text encoder, in published files of CLIP.

    joint_dim: dimension of the joint space of images and texts.
    """
    shapes: Shapes = {
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (1 + GRID**2, WIDTH),
        "visual.proj": (WIDTH, joint_dim),
        "visual.conv1.weight": (WIDTH, 3, PATCH, PATCH),
        "text_projection": (8, joint_dim),
        "logit_scale": (),
    }
    shapes |= {f"visual.ln_{position}.{kind}": (WIDTH,) for position in ("pre", "post") for kind in ("weight", "bias")}
    for index in range(DEPTH):
        block = f"visual.transformer.resblocks.{index}"
        shapes |= {f"{block}.{norm}.{kind}": (WIDTH,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * WIDTH, WIDTH),
            f"{block}.attn.in_proj_bias": (3 * WIDTH,),
            f"{block}.attn.out_proj.weight": (WIDTH, WIDTH),
            f"{block}.attn.out_proj.bias": (WIDTH,),
            f"{block}.mlp.c_fc.weight": (4 * WIDTH, WIDTH),
            f"{block}.mlp.c_fc.bias": (4 * WIDTH,),
            f"{block}.mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
            f"{block}.mlp.c_proj.bias": (WIDTH,),
        }
    return shapes


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, divided by the largest absolute value of `expected`."""
    return float((actual - expected).abs().max() / expected.abs().max())
