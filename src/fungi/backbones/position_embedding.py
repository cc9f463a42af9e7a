"""Learned position embeddings at another resolution than they were trained for."""

import torch
from jaxtyping import Float
from torch import Tensor

OFFSET = 0.1
"""DINOv2's hub code adds it to the new grid before scaling, so that rounding never loses a row."""


def hub_positions(
    positions: Float[Tensor, "1 old d"], *, grid: int, offset: float = OFFSET
) -> Float[Tensor, "1 new d"]:
    """Position embedding (class token first) for `grid` x `grid` patches: bicubic, no antialias, as DINOv2's hub code.

    A grid that fits already stays untouched.
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if side == grid:
        return positions
    token, patches = positions[:, :1], positions[:, 1:]
    patches = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1 side*side d] -> [1 d side side]
    scale = (grid + offset) / side
    patches = torch.nn.functional.interpolate(patches.float(), scale_factor=(scale, scale), mode="bicubic")
    assert patches.shape[-2:] == (grid, grid)
    return torch.cat([token, patches.flatten(2).transpose(1, 2).to(token.dtype)], dim=1)  # -> [1 1+grid*grid d]
