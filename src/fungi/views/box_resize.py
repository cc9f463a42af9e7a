"""Crop images on the device: two batched matrix products, for height and width, cut boxes and resize them.

The filters are those of Pillow: bicubic with a = -0.5, or triangles. If a box becomes smaller, the filter is widened.
The values differ a little from those of Pillow. Pillow rounds to 8 bits and clamps to 0..255 after each of its two
passes. This module does not round, and clamps once at the end.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

Filter = Literal["bicubic", "bilinear"]


def resized_boxes(
    images: UInt8[Tensor, "b c h w"], boxes: Int64[Tensor, "b v 4"], size: int, interpolation: Filter
) -> Float[Tensor, "b v c size size"]:
    """Return the boxes (top, left, height, width) of images, resized to `size` x `size`, with values from 0 to 255."""
    top, left, height, width = boxes.unbind(dim=-1)
    vertical = resize_weights(top, height, size, images.shape[2], interpolation)  # [b v size h]
    horizontal = resize_weights(left, width, size, images.shape[3], interpolation)  # [b v size w]
    pixels = images.float().unsqueeze(1)  # [b 1 c h w]
    rows = pixels @ horizontal.unsqueeze(2).mT  # [b v c h size]
    return (vertical.unsqueeze(2) @ rows).clamp(0, 255)


def resize_weights(
    start: Int64[Tensor, "b v"], length: Int64[Tensor, "b v"], size: int, extent: int, interpolation: Filter
) -> Float[Tensor, "b v size extent"]:
    """Return the matrices that cut intervals out of a line of pixels and resize them to `size` pixels.

    start, length: first pixel and number of pixels of each interval. extent: number of pixels of the line.
    """
    first, span = start[..., None, None].float(), length[..., None, None].float()
    scale = span / size
    outputs = torch.arange(size, device=start.device).view(-1, 1)
    positions = torch.arange(extent, device=start.device) + 0.5  # positions of the centres of the pixels
    centres = first + (outputs + 0.5) * scale  # [b v size 1]
    weights = _filter_weights((positions - centres) / scale.clamp_min(1.0), interpolation)
    weights = torch.where((positions > first) & (positions < first + span), weights, 0.0)
    return weights / weights.sum(dim=-1, keepdim=True)


def _filter_weights(distance: Float[Tensor, "..."], interpolation: Filter) -> Float[Tensor, "..."]:
    """Return the weights of pixels at a distance from the centre of the filter, in units of the filter's scale."""
    x = distance.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp_min(0)
    # The cubic convolution kernel with a = -0.5 has one polynomial for |x| < 1 and one for 1 <= |x| < 2.
    below_one, below_two = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, below_one, torch.where(x < 2, below_two, 0.0))
