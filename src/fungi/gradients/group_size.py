"""Choose the number of views per forward pass from the free memory of the device and the size of the model.

The number changes results only by rounding. It is a power of two, so small changes of the free memory rarely change it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fungi.backbones.encoders import blocks_before

ON_CPU, MOST_ON_GPU = 64, 1024
SHARE = 0.5
"""Share of the free memory that a forward pass may use, by the estimate."""
WITHOUT_GRAPH, OF_COMPUTE_TYPE = 8, 12
"""Bytes per token and channel while a block runs without a graph: two residual streams in float32; queries, keys,
values, attention output and twice the hidden layer of the MLP in the compute dtype."""
KEPT_BLOCK, KEPT_OF_COMPUTE_TYPE = 16, 16
"""Bytes per token and channel that a block in the graph keeps for the backward pass: in float32, and in the compute
dtype per byte of it."""


def views_at_once(
    model: nn.Module, targets: Sequence[str], device: torch.device, dtype: torch.dtype, *, pooled: bool
) -> int:
    """Return the number of views of full size to encode in one forward pass.

    targets: paths of the gradient sources; pooled: whether the last block is computed for the pooled token alone.
    """
    if device.type != "cuda":
        return ON_CPU
    free, _ = torch.cuda.mem_get_info(device)
    return fitting(free, bytes_per_view(model, targets, dtype, pooled=pooled))


def fitting(free: int, needed: int) -> int:
    """Return the largest power of two of views that fits into the share of free memory, at most `MOST_ON_GPU`."""
    views = MOST_ON_GPU
    while views > 1 and views * needed > SHARE * free:
        views //= 2
    return views


def bytes_per_view(model: Any, targets: Sequence[str], dtype: torch.dtype, *, pooled: bool) -> int:
    """Estimate the memory of one view from the tokens, the width and the blocks after the first source.

    Return 0 if the model has no attributes for its number of tokens and its width.
    """
    embed = getattr(model, "patch_embed", None)
    patches, width = getattr(embed, "num_patches", None), getattr(model, "embed_dim", None)
    blocks = getattr(model, "blocks", None)
    if not isinstance(patches, int) or not isinstance(width, int) or blocks is None:
        return 0
    size = torch.empty((), dtype=dtype).element_size()
    behind = 0 if pooled or not targets else len(blocks) - len(blocks_before(model, targets))
    per_channel = WITHOUT_GRAPH + OF_COMPUTE_TYPE * size + behind * (KEPT_BLOCK + KEPT_OF_COMPUTE_TYPE * size)
    return (patches + getattr(model, "num_prefix_tokens", 1)) * width * per_channel
