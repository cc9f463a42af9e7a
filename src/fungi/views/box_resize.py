"""Crops of images on the device: boxes are cut and resized by two batched matrix products, for height and width.

The filters are Pillow's: bicubic with a = -0.5, or triangles, both widened for boxes that become smaller. Values differ
a little: Pillow rounds to 8 bits and clamps to 0..255 after each of its two passes, this module clamps once at the end.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

Filter = Literal["bicubic", "bilinear"]


def resized_boxes(
    images: UInt8[Tensor, "b c h w"], boxes: Int64[Tensor, "b v 4"], size: int, kind: Filter
) -> Float[Tensor, "b v c size size"]:
    """Cut boxes (top, left, height, width) out of images and resize them to `size` x `size`; values in 0..255."""
    top, left, height, width = boxes.unbind(dim=-1)
    vertical = resize_weights(top, height, size, images.shape[2], kind)  # [b v size h]
    horizontal = resize_weights(left, width, size, images.shape[3], kind)  # [b v size w]
    pixels = images.float().unsqueeze(1)  # [b 1 c h w]
    rows = pixels @ horizontal.unsqueeze(2).mT  # [b v c h size]
    return (vertical.unsqueeze(2) @ rows).clamp(0, 255)


def resize_weights(
    start: Int64[Tensor, "b v"], length: Int64[Tensor, "b v"], size: int, extent: int, kind: Filter
) -> Float[Tensor, "b v size extent"]:
    """Return the weight of each of `extent` values in each of `size` results, for intervals of a line."""
    begin, span = start[..., None, None].float(), length[..., None, None].float()
    scale = span / size
    results = torch.arange(size, device=start.device).view(-1, 1)
    values = torch.arange(extent, device=start.device) + 0.5
    centres = begin + (results + 0.5) * scale  # [b v size 1]
    weights = _kernel((values - centres) / scale.clamp_min(1.0), kind)
    weights = torch.where((values > begin) & (values < begin + span), weights, 0.0)
    return weights / weights.sum(dim=-1, keepdim=True)


def _kernel(x: Float[Tensor, "..."], kind: Filter) -> Float[Tensor, "..."]:
    x = x.abs()
    if kind == "bilinear":
        return (1 - x).clamp_min(0)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
