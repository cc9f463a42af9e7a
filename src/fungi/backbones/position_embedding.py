"""Learned position embeddings at another resolution than they were trained for."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

OFFSET = 0.1
"""DINOv2's hub code adds it to the new grid before scaling, so that rounding never loses a row."""


def hub_positions(
    positions: Float[Tensor, "1 old d"], *, grid: int, antialias: bool = False
) -> Float[Tensor, "1 new d"]:
    """Position embedding (class token first) for `grid` x `grid` patches: bicubic, as DINOv2's hub code.

    antialias: how it does that for models with registers; the others' grid is scaled without, and with an offset. A
    grid that fits already stays untouched.
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if side == grid:
        return positions
    token, patches = positions[:, :1], positions[:, 1:]
    patches = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1 side*side d] -> [1 d side side]
    scale = (grid + OFFSET) / side
    to: dict[str, Any] = {"size": (grid, grid)} if antialias else {"scale_factor": (scale, scale)}
    patches = torch.nn.functional.interpolate(patches.float(), mode="bicubic", antialias=antialias, **to)
    assert patches.shape[-2:] == (grid, grid)
    return torch.cat([token, patches.flatten(2).transpose(1, 2).to(token.dtype)], dim=1)  # -> [1 1+grid*grid d]
