"""Write a vision transformer in the layout of other code: the published code, timm or transformers (spec udi 6.3).

The arguments `state` have timm's names: `cls_token [1 1 d]`, `reg_token [1 1 d]` for cls+, `pos_embed [1 R+n d]` for R
class tokens and n patches.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fungi.backbones.base import StateDict
from fungi.backbones.checkpoints import check_fit
from fungi.backbones.families.udi import build, one_token, patches_only
from fungi.errors import FungiError
from fungi.pretraining.udi.choices import ARCHITECTURES
from fungi.runtime.files import write_text_atomically, written_atomically
from fungi.views.image import IMAGENET

if TYPE_CHECKING:
    from torch import nn

HEAD_WIDTH = 64
"""Width of an attention head in all published networks. It gives the number of heads, which the weights do not contain
(spec udi 6.3).
"""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a vision transformer: width d, blocks, heads, width of the MLP, pixels, class tokens."""

    width: int
    depth: int
    heads: int
    hidden: int
    image_size: int
    patch_size: int
    class_tokens: int

    @property
    def mlp_ratio(self) -> float:
        """The width of the MLP in units of d."""
        return self.hidden / self.width

    def build(self, class_tokens: int) -> "nn.Module":
        """Return timm's network of this shape with `class_tokens` class tokens."""
        return build(self.width, self.depth, self.heads, self.mlp_ratio, self.image_size, self.patch_size, class_tokens)


def shape_of(state: StateDict, origin: str) -> Shape:
    """Return the sizes of the network of some weights. Raises FungiError if tensors of the network are missing.

    origin: name of the file, for messages.
    """
    required = {"pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"}
    if not required <= set(state):
        missing = ", ".join(sorted(required - set(state)))
        raise FungiError(
            f"{origin} does not contain a vision transformer of UDI: {missing} is missing. Use a checkpoint of"
            " `fungi udi pretrain`, or a published checkpoint."
        )
    class_tokens = 1 + int("reg_token" in state)
    hidden, width = state["blocks.0.mlp.fc1.weight"].shape
    patch = state["patch_embed.proj.weight"].shape[-1]
    heads_by_width = {architecture.width: architecture.heads for architecture in ARCHITECTURES.values()}
    shape = Shape(
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        heads=heads_by_width.get(width, width // HEAD_WIDTH),
        hidden=hidden,
        image_size=patch * math.isqrt(state["pos_embed"].shape[1] - class_tokens),
        patch_size=patch,
        class_tokens=class_tokens,
    )
    with torch.device("meta"):
        check_fit(shape.build(class_tokens), state, backbone=f"ViT of width {width}", origin=origin)
    return shape


def save_published(state: StateDict, shape: Shape, class_tokens: int, file: Path) -> None:
    """Write one file with flat names. `cls_token [1 2 d]` contains both class tokens."""
    tensors = patches_only(state) if class_tokens == 0 else _with_tokens(state, shape, class_tokens)
    if "reg_token" in tensors:
        tensors["cls_token"] = torch.cat([tensors["cls_token"], tensors.pop("reg_token")], dim=1)
    _save(tensors, file)


def save_timm(state: StateDict, shape: Shape, class_tokens: int, folder: Path) -> None:
    """Write a folder for timm: `config.json` with the arguments of the network, and `model.safetensors`."""
    arguments = {
        "img_size": shape.image_size,
        "patch_size": shape.patch_size,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": shape.mlp_ratio,
        "reg_tokens": class_tokens - 1,
    }
    mean, deviation = IMAGENET
    config = {
        "architecture": "vit_tiny_patch16_224",  # a plain ViT; `model_args` replaces all its sizes
        "num_classes": 0,
        "num_features": shape.width,
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, shape.image_size, shape.image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 224 / 256,
            "mean": mean,
            "std": deviation,
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    _save(_with_tokens(state, shape, class_tokens), folder / "model.safetensors")
    write_text_atomically(folder / "config.json", json.dumps(config, indent=1))


def save_transformers(state: StateDict, shape: Shape, class_tokens: int, folder: Path) -> None:
    """Write a folder as `save_pretrained` does: weights, configuration, and the transform of images."""
    tensors = _with_tokens(state, shape, class_tokens)
    model = _register_model(tensors, shape) if class_tokens == 2 else _plain_model(tensors, shape)
    model.save_pretrained(folder)
    mean, deviation = IMAGENET
    transform = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": round(shape.image_size * 256 / 224)},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": shape.image_size, "width": shape.image_size},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": deviation,
    }
    write_text_atomically(folder / "preprocessor_config.json", json.dumps(transform, indent=1))


def _plain_model(state: StateDict, shape: Shape) -> Any:
    """Return the ViT of transformers with one class token."""
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(**_sizes(shape), intermediate_size=shape.hidden), add_pooling_layer=False)
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
    renamed = _blocks(state, "layers", names) | {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
    }
    model.load_state_dict(renamed)
    return model


def _register_model(state: StateDict, shape: Shape) -> Any:
    """Return the ViT of DINOv2 with one register and layer scales of 1, for two class tokens.

    Registers of DINOv2 have no position embedding, so the register is the sum of cls+ and its position embedding.
    """
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    ratio, remainder = divmod(shape.hidden, shape.width)
    if remainder:
        raise FungiError(
            f"transformers can't build this network: its MLP is {shape.mlp_ratio} times as wide as its tokens, but the"
            " ratio has to be an integer. Use --layout timm."
        )
    model = Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**_sizes(shape), mlp_ratio=ratio, num_register_tokens=1, layerscale_value=1.0)
    )
    positions = state["pos_embed"]
    renamed = _blocks(state, "encoder.layer", {}) | {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.register_tokens": state["reg_token"] + positions[:, 1:2],
        "embeddings.position_embeddings": torch.cat([positions[:, :1], positions[:, 2:]], dim=1),
        "embeddings.mask_token": torch.zeros(1, shape.width),
    }
    scales = {name: scale for name, scale in model.state_dict().items() if name.endswith("lambda1")}
    model.load_state_dict(renamed | scales)
    return model


def _sizes(shape: Shape) -> dict[str, Any]:
    """Return the sizes that have the same name in both configurations of transformers."""
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "layer_norm_eps": 1e-6,
    }


def _blocks(state: StateDict, prefix: str, names: dict[str, str]) -> StateDict:
    """Return patch embedding, blocks and final norm under the names of transformers, with separate q, k and v.

    prefix: name of the list of blocks. names: names of the modules of a block that differ from those of timm.
    """
    renamed = {}
    for name, tensor in state.items():
        first_name, _, inner_path = name.partition(".")
        if first_name == "patch_embed":
            renamed[f"embeddings.patch_embeddings.projection.{inner_path.removeprefix('proj.')}"] = tensor
        elif first_name == "norm":
            renamed[f"layernorm.{inner_path}"] = tensor
        elif first_name == "blocks":
            index, module, *inner = inner_path.split(".")  # such as 0.attn.qkv.weight or 0.norm1.weight
            path = f"{prefix}.{index}.{names.get(module, module)}".replace(".attn", ".attention")
            if inner[0] == "qkv":
                thirds = zip("qkv", tensor.chunk(3), strict=True)
                renamed |= {f"{path}.{letter}_proj.{inner[1]}": third.contiguous() for letter, third in thirds}
            else:
                renamed[".".join([path, *inner]).replace("attention.proj", "attention.o_proj")] = tensor
    return renamed


def _with_tokens(state: StateDict, shape: Shape, class_tokens: int) -> StateDict:
    """Return the weights with the given number of class tokens, 1 or 2."""
    return dict(state) if class_tokens == shape.class_tokens else one_token(state)


def _save(state: StateDict, file: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    with written_atomically(file) as temporary:
        if file.suffix == ".safetensors":
            save_file(tensors, temporary)
        else:
            torch.save(tensors, temporary)
