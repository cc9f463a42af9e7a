"""Draw stratified samples of tokens, and compute their positions in another crop (spec udi 2.1, 2.2).

Axes: b images, m samples of a view, n tokens of a grid `side` x `side`, 2 (row, column). Tokens are in row-major order.
Positions are integers, because rounding must not decide whether a sample is inside another crop.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from fungi.pretraining.udi.choices import Coordinates


def stratified_tokens(random: np.random.Generator, side: int, window: int) -> Int64[np.ndarray, " m"]:
    """Return one random token from each of (side // window)^2 windows of a grid.

    If the windows do not fill the grid, they lie in a random corner of the grid.
    """
    windows = side // window
    offset = (side - windows * window) * random.integers(2, size=2)
    starts = np.arange(windows) * window
    cells = random.integers(window, size=(2, windows, windows))
    rows = offset[0] + starts[:, None] + cells[0]
    columns = offset[1] + starts[None, :] + cells[1]
    return (rows * side + columns).reshape(-1)


def units_per_pixel(sides: Iterable[int], coordinates: Coordinates = "corner") -> int:
    """Return the number of units per pixel. In these units, the tokens of grids with these sides are at integers."""
    return math.lcm(*(_steps(side, coordinates) for side in sides))


def token_positions(
    tokens: Int64[Tensor, "b m"], side: int, box: Int64[Tensor, "b 4"], units: int, coordinates: Coordinates = "corner"
) -> Int64[Tensor, "b m 2"]:
    """Return the exact positions of tokens of a crop in the image, in units of 1/`units` of a pixel.

    tokens: indices of tokens of the crop. side: number of tokens along a side of the crop. box: box of the crop of each
    image.
    """
    cells = torch.stack([tokens // side, tokens % side], dim=-1)  # [b m 2]
    steps = cells if coordinates == "corner" else 2 * cells + 1
    start, end = box[:, None, :2], box[:, None, 2:]
    return units * start + steps * (end - start) * (units // _steps(side, coordinates))


def strictly_inside(positions: Int64[Tensor, "b m 2"], box: Int64[Tensor, "b 4"], units: int) -> Bool[Tensor, "b m"]:
    """Return which positions are strictly inside a crop along both axes.

    positions: positions in the image, in units of 1/`units` of a pixel. box: box of the crop of each image.
    """
    start, end = units * box[:, None, :2], units * box[:, None, 2:]
    return ((positions > torch.minimum(start, end)) & (positions < torch.maximum(start, end))).all(-1)


def _steps(side: int, coordinates: Coordinates) -> int:
    """Return the smallest number of equal steps along a crop such that each token lies on a step."""
    return max(side - 1, 1) if coordinates == "corner" else 2 * side


def one_hot_map(tokens: Int64[Tensor, "b m"], count: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "b m n"]:
    """Return the source map S: row k selects sample k from `count` tokens."""
    return torch.nn.functional.one_hot(tokens, count).to(dtype)


def target_map(
    positions: Int64[Tensor, "b m 2"],
    box: Int64[Tensor, "b 4"],
    side: int,
    units: int,
    coordinates: Coordinates = "corner",
) -> Float[Tensor, "b m n"]:
    """Return the target map T: bilinear weights of positions on the grid of a crop, zero outside the crop.

    positions: positions in the image, in units of 1/`units` of a pixel. box: box of the crop of each image. side:
    number of tokens along a side of the crop.
    """
    start, end = units * box[:, None, :2], units * box[:, None, 2:]
    extent = end - start + (end == start).long()  # avoids a division by 0; no position is inside an empty box
    share = (positions - start) / extent.double()
    cell = share * (side - 1) if coordinates == "corner" else (share * side - 0.5).clamp(0, side - 1)
    grid = torch.arange(side, device=box.device, dtype=cell.dtype)
    axis_weights = (1 - (cell.unsqueeze(-1) - grid).abs()).clamp_min(0).float()  # linear, [b m 2 side]
    weights = axis_weights[:, :, 0, :, None] * axis_weights[:, :, 1, None, :]  # [b m side side]
    return weights.flatten(2) * strictly_inside(positions, box, units).unsqueeze(-1)


def masked_mean(vectors: Float[Tensor, "*batch m d"], valid: Shaped[Tensor, "*batch m"]) -> Float[Tensor, "*batch d"]:
    """Return the mean of the valid vectors, or zero if none is valid.

    A small number is added to the count, as in the published code.
    """
    mask = valid.to(vectors.dtype)
    return (vectors * mask.unsqueeze(-1)).sum(-2) / (mask.sum(-1, keepdim=True) + 1e-5)
