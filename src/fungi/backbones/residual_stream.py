"""Keep the residual stream of a vision transformer in bfloat16, in the blocks before the gradient source.

Autocast computes products in bfloat16 and keeps the residual stream in float32. Every normalisation and every addition
of a block then reads and writes float32, and every product first rounds its input. In the blocks that this module
copies, everything is bfloat16. These blocks move fewer bytes, but every addition rounds the stream once more.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from fungi.backbones.bfloat16_block import Bfloat16Block
from fungi.backbones.encoders import blocks_before
from fungi.backbones.position_embedding import shallow_copy
from fungi.errors import FungiError


def with_residual_dtype(
    model: nn.Module, residual_dtype: Literal["float32", "bfloat16"], layers: Sequence[str], *, dtype: torch.dtype
) -> nn.Module:
    """Return the model for `--residual-dtype`: itself, or a copy from `with_bfloat16_residual`.

    layers: paths of the gradient sources. dtype: dtype of the computation. Raises FungiError if the residual stream is
    to be bfloat16 and the computation is not, and for the models that `with_bfloat16_residual` refuses.
    """
    if residual_dtype == "float32":
        return model
    if dtype != torch.bfloat16:
        raise FungiError(
            "--residual-dtype bfloat16 needs --dtype bfloat16. Add --dtype bfloat16, or leave out --residual-dtype."
        )
    return with_bfloat16_residual(model, layers)


def with_bfloat16_residual(model: nn.Module, layers: Sequence[str]) -> nn.Module:
    """Return a copy of the model in which the blocks before all gradient sources are in bfloat16.

    The copy shares the other layers with the model. layers: paths of the sources. Raises FungiError if the model is not
    a vision transformer of timm, or if there is no block before all sources.
    """
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, VisionTransformer) or not isinstance(model.blocks, nn.Sequential):
        raise FungiError(
            f"--residual-dtype bfloat16 is for vision transformers of timm, and this is a {type(model).__name__}."
            " Remove this flag."
        )
    earlier_blocks = blocks_before(model, layers)
    if not earlier_blocks:
        raise FungiError(
            f"--residual-dtype bfloat16 has no effect: no block comes before {', '.join(layers)}. Remove this flag."
        )
    vit: Any = shallow_copy(model)
    bfloat16_blocks = [Bfloat16Block(block, is_last=block is earlier_blocks[-1]) for block in earlier_blocks]
    vit._modules["blocks"] = nn.Sequential(*bfloat16_blocks, *list(model.blocks)[len(earlier_blocks) :])
    return vit
