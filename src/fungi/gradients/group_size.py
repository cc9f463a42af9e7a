"""Choose the number of views per forward pass from the free memory of the device and the size of the model.

The number of views changes results only through rounding. The number is a power of two, so it rarely changes if the
free memory changes a little.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fungi.backbones.encoders import blocks_before

VIEWS_ON_CPU, MAX_VIEWS_ON_GPU = 64, 1024
"""Number of views per forward pass on a CPU, and largest number on a GPU."""
SHARE = 0.5
"""Share of the free memory that a forward pass may use, according to the estimate."""
FLOAT32_BYTES, COMPUTE_NUMBERS = 8, 12
"""Memory per token and channel while a transformer block runs without a graph. Two residual streams in float32 take 8
bytes. There are also 12 numbers in the compute dtype: queries, keys, values, attention output, and twice the hidden
layer of the MLP."""
SAVED_FLOAT32_BYTES, SAVED_COMPUTE_NUMBERS = 16, 16
"""Memory per token and channel that a transformer block in the graph saves for the backward pass: bytes in float32, and
numbers in the compute dtype."""


def views_at_once(
    model: nn.Module, targets: Sequence[str], device: torch.device, dtype: torch.dtype, *, pooled: bool
) -> int:
    """Return the number of views of full size to encode in one forward pass.

    targets: paths of the gradient sources; empty if only embeddings are computed.
    pooled: whether the last block is computed only for the pooled token. The autograd graph is then within this block.
    """
    if device.type != "cuda":
        return VIEWS_ON_CPU
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return largest_fitting(free_bytes, bytes_per_view(model, targets, dtype, pooled=pooled))


def largest_fitting(free_bytes: int, view_bytes: int) -> int:
    """Return how many views fit into `SHARE` of the free memory, as a power of two up to `MAX_VIEWS_ON_GPU`."""
    views = MAX_VIEWS_ON_GPU
    while views > 1 and views * view_bytes > SHARE * free_bytes:
        views //= 2
    return views


def bytes_per_view(model: Any, targets: Sequence[str], dtype: torch.dtype, *, pooled: bool) -> int:
    """Estimate the memory of a view in bytes, from tokens, width and the number of blocks from the first source on.

    targets, pooled: as in `views_at_once`.
    Return 0 if the model has no attributes for its number of tokens and its width.
    """
    patch_embedding = getattr(model, "patch_embed", None)
    patches, width = getattr(patch_embedding, "num_patches", None), getattr(model, "embed_dim", None)
    blocks = getattr(model, "blocks", None)
    if not isinstance(patches, int) or not isinstance(width, int) or blocks is None:
        return 0
    number_bytes = torch.empty((), dtype=dtype).element_size()
    # With `pooled`, the graph has only one token of the last block. Its memory is small, so it is not counted.
    blocks_in_graph = 0 if pooled or not targets else len(blocks) - len(blocks_before(model, targets))
    block_bytes = FLOAT32_BYTES + COMPUTE_NUMBERS * number_bytes
    saved_bytes = blocks_in_graph * (SAVED_FLOAT32_BYTES + SAVED_COMPUTE_NUMBERS * number_bytes)
    tokens = patches + getattr(model, "num_prefix_tokens", 1)
    return tokens * width * (block_bytes + saved_bytes)
