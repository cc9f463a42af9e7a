"""Learned position embeddings at another resolution than they were trained for."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

OFFSET = 0.1
"""DINOv2's hub code adds it to the new grid before scaling, so that rounding never loses a row."""


def hub_positions(
    positions: Float[Tensor, "1 old d"], *, grid: int | tuple[int, int], antialias: bool = False, prefix: int = 1
) -> Float[Tensor, "1 new d"]:
    """Position embedding for a grid of patches (its side, or rows and columns): bicubic, as DINOv2's hub code.

    prefix: class tokens, which come first and keep theirs.

    antialias: how it does that for models with registers; the others' grid is scaled without, and with an offset. A
    grid that fits already stays untouched.
    """
    wanted = (grid, grid) if isinstance(grid, int) else grid
    side = round((positions.shape[1] - prefix) ** 0.5)
    if wanted == (side, side):
        return positions
    token, patches = positions[:, :prefix], positions[:, prefix:]
    patches = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1 side*side d] -> [1 d side side]
    scale = tuple((length + OFFSET) / side for length in wanted)
    to: dict[str, Any] = {"size": wanted} if antialias else {"scale_factor": scale}
    patches = torch.nn.functional.interpolate(patches.float(), mode="bicubic", antialias=antialias, **to)
    assert patches.shape[-2:] == wanted
    return torch.cat([token, patches.flatten(2).transpose(1, 2).to(token.dtype)], dim=1)  # -> [1 prefix+new d]
