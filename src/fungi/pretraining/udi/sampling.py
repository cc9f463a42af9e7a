"""Stratified random samples of tokens, and where they lie in another crop (spec udi 2.1, 2.2).

Axes: b images, m samples of a view, n tokens of a grid `side` x `side`, 2 (row, column). Tokens are in row-major order.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from fungi.pretraining.udi.choices import Coordinates


def stratified_tokens(random: np.random.Generator, side: int, window: int) -> Int64[np.ndarray, " m"]:
    """One token out of each of the (side // window)^2 windows; the windows' square lies in a random corner."""
    windows = side // window
    offset = (side - windows * window) * random.integers(2, size=2)
    starts = np.arange(windows) * window
    cells = random.integers(window, size=(2, windows, windows))
    rows = offset[0] + starts[:, None] + cells[0]
    columns = offset[1] + starts[None, :] + cells[1]
    return (rows * side + columns).reshape(-1)


def token_positions(
    tokens: Int64[Tensor, "b m"], side: int, box: Float[Tensor, "b 4"], coordinates: Coordinates = "corner"
) -> Float[Tensor, "b m 2"]:
    """Where tokens of a crop lie in the image."""
    cells = torch.stack([tokens // side, tokens % side], dim=-1).to(box.dtype)
    share = cells / max(side - 1, 1) if coordinates == "corner" else (cells + 0.5) / side
    start, end = box[:, None, :2], box[:, None, 2:]
    return start + share * (end - start)


def one_hot_map(tokens: Int64[Tensor, "b m"], count: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b m n"]:
    """The source map S: row k picks sample k out of `count` tokens."""
    return torch.nn.functional.one_hot(tokens, count).to(dtype)


def target_map(
    positions: Float[Tensor, "b m 2"], box: Float[Tensor, "b 4"], side: int, coordinates: Coordinates = "corner"
) -> tuple[Float[Tensor, "b m n"], Bool[Tensor, "b m"]]:
    """The target map T, bilinear weights of positions on a crop's grid, and which positions are strictly inside it.

    Rows of positions that are not inside are zero.
    """
    start, end = box[:, None, :2], box[:, None, 2:]
    inside = ((positions > torch.minimum(start, end)) & (positions < torch.maximum(start, end))).all(-1)
    extent = torch.where(end == start, torch.ones_like(end), end - start)  # nothing is inside a box without extent
    share = (positions - start) / extent
    place = share * (side - 1) if coordinates == "corner" else (share * side - 0.5).clamp(0, side - 1)
    grid = torch.arange(side, device=box.device, dtype=box.dtype)
    hats = (1 - (place.unsqueeze(-1) - grid).abs()).clamp_min(0)  # [b m 2 side]
    weights = hats[:, :, 0, :, None] * hats[:, :, 1, None, :]  # [b m side side]
    return weights.flatten(2) * inside.unsqueeze(-1), inside


def masked_mean(vectors: Float[Tensor, "*batch m d"], valid: Shaped[Tensor, "*batch m"]) -> Float[Tensor, "*batch d"]:
    """Mean of the valid vectors, with the reference's epsilon in the count: zero where none is valid."""
    mask = valid.to(vectors.dtype)
    return (vectors * mask.unsqueeze(-1)).sum(-2) / (mask.sum(-1, keepdim=True) + 1e-5)
