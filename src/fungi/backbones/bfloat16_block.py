"""A transformer block in which all numbers are bfloat16, for `--residual-dtype bfloat16` (`residual_stream.py`)."""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Bfloat16Block(nn.Module):
    """A copy of a block with weights, products, normalisations and residual stream in bfloat16. It ignores autocast.

    is_last: whether this is the last block in bfloat16; its output is then converted to float32.
    original_type: class of the original block.
    """

    def __init__(self, block: nn.Module, *, is_last: bool) -> None:
        super().__init__()
        self.original_type, self._is_last = type(block), is_last
        self.block = deepcopy(block).to(torch.bfloat16).eval().requires_grad_(False)

    def forward(self, tokens: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """Return the tokens after the block."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = self.block(tokens.to(torch.bfloat16))
        return tokens.float() if self._is_last else tokens
