"""The patch grid of SimCLR: overlapping patches of one image as its positive views (spec vision 4.3).

Resizing is linear, and height and width can be resized separately. Two products with a small matrix therefore resize
all patches.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from fungi.errors import FungiError
from fungi.views.image import ImageInput
from fungi.views.pixels import PixelViews, as_pixels, check_size, normalize


@dataclass(frozen=True, kw_only=True)
class PatchGrid(PixelViews):
    """Square patches of an image, row by row, each resized to the size at which it is encoded.

    In the published method, the side of a patch is `size / grid`, the stride is the side divided by `stride_scale`, and
    patches are resized to the input size. 224 pixels, grid 2 and stride scale 6 result in 7 x 7 = 49 patches. There is
    no other augmentation, so the views are deterministic.

    Three options replace published values, if they are not 0:

    patch_side: side of a patch in pixels.
    per_side: number of patches along a side; they are evenly spaced from edge to edge.
    view_size: side in pixels at which patches are encoded.
    """

    input: ImageInput
    grid: int = 2
    stride_scale: int = 6
    patch_side: int = 0
    per_side: int = 0
    view_size: int = 0

    kind = "patches"
    deterministic = True

    def __post_init__(self) -> None:
        if not 1 <= self.grid <= self.input.size:
            raise FungiError(
                f"grid is {self.grid}, but has to be from 1 to {self.input.size}: patches have the side `size / grid`."
            )
        check_size("patch_side", self.patch_side, self.input.size)
        check_size("view_size", self.view_size, self.input.size)
        if self.stride_scale < 1 or (not self.per_side and self.stride < 1):
            origin = f"patch_side {self.patch_side}" if self.patch_side else f"grid {self.grid}"
            raise FungiError(
                f"patches of {self.side} pixels can't be moved in {self.stride_scale} steps: "
                f"{origin} and stride_scale {self.stride_scale} don't fit {self.input.size} pixels. "
                f"Set stride_scale to a number from 1 to {self.side}, or use larger patches."
            )
        places = self.input.size - self.side + 1
        if self.per_side and not 2 <= self.per_side <= places:
            raise FungiError(
                f"per_side is {self.per_side}, but has to be from 2 to {places}: patches of {self.side} pixels have no "
                f"more places along {self.input.size} pixels. With 0, stride_scale determines the number."
            )

    @property
    def side(self) -> int:
        """Side of a patch in pixels."""
        return self.patch_side or self.input.size // self.grid

    @property
    def stride(self) -> int:
        """Published distance between neighbouring patches, in pixels."""
        return self.side // self.stride_scale

    @property
    def starts(self) -> tuple[int, ...]:
        """First pixel of each patch along a side."""
        last = self.input.size - self.side
        if not self.per_side:
            return tuple(range(0, last + 1, self.stride))
        return tuple(round(patch * last / (self.per_side - 1)) for patch in range(self.per_side))

    @property
    def n_views(self) -> int:
        """Number of patches per image."""
        return len(self.starts) ** 2

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side in pixels at which each patch is encoded."""
        return (self.view_size or self.input.size,) * self.n_views

    def prepare(self, item: Image.Image) -> UInt8[Tensor, "1 c h w"]:
        """Resize an image to a square of the input size; the aspect ratio changes."""
        square = item.resize((self.input.size, self.input.size), Image.Resampling.BICUBIC)
        return as_pixels(square).unsqueeze(0)

    def render(self, batch: UInt8[Tensor, "b 1 c s s"]) -> Any:
        """Cut, resize and normalise all patches: `[b 1 c s s] -> [b*v c e e]`.

        s: side of the backbone input. e: side of an encoded patch.
        Patches that keep their own size are returned in a list.
        """
        images = batch.squeeze(1).float() / 255
        patches = resized_patches(images, self.side, self.starts, self.sizes[0])
        views = normalize(patches.flatten(0, 1), self.input.statistics_of_views)
        return [views] if self.has_own_sizes else views


def resized_patches(
    images: Float[Tensor, "b c s s"], side: int, starts: tuple[int, ...], size: int
) -> Float[Tensor, "b v c e e"]:
    """Return all patches of `side` x `side` pixels that begin at `starts` on both axes, resized to `size` (bicubic).

    s: side of the images. e: side of the resized patches, `size`.
    """
    rows = _windows(images, 2, side, starts)  # [b c y w side]
    if side != size:
        rows = rows @ resize_matrix(side, size, images.device).T  # [b c y w e]: only the height is resized
    patches = _windows(rows, 3, side, starts)  # [b c y x e side]
    if side != size:
        patches = patches @ resize_matrix(side, size, images.device).T  # [b c y x e(height) e(width)]
    batch, channels = images.shape[:2]
    return patches.permute(0, 2, 3, 1, 4, 5).reshape(batch, -1, channels, size, size)  # [b y x c e e] -> [b v c e e]


def _windows(images: Float[Tensor, "..."], axis: int, side: int, starts: tuple[int, ...]) -> Float[Tensor, "..."]:
    """Return the windows of `side` pixels that begin at `starts` along an axis, with the pixels as the last axis.

    If all distances between neighbouring starts are equal, the windows are returned without a copy.
    """
    distances = {following - start for start, following in pairwise(starts)}
    if len(distances) <= 1 and starts[0] == 0:
        stride = distances.pop() if distances else side  # for a single window, every stride is correct
        windows = images.unfold(axis, side, stride)
        return windows.narrow(axis, 0, len(starts))  # `unfold` may return further windows after the last start
    return images.unfold(axis, side, 1).index_select(axis, _starts_on_device(starts, images.device))


@cache
def _starts_on_device(starts: tuple[int, ...], device: torch.device) -> Int64[Tensor, " n"]:
    return torch.tensor(starts, device=device)


@cache
def resize_matrix(side: int, size: int, device: torch.device) -> Float[Tensor, "size side"]:
    """Return the matrix that resizes `side` values to `size` values, bicubic and antialiased.

    The result is the resized identity matrix. The result is cached, because a copy to the device waits for the device.
    """
    identity = torch.eye(side, dtype=torch.float64).expand(1, 1, side, side)
    resized = torch.nn.functional.interpolate(identity, size=(size, side), mode="bicubic", antialias=True)
    return resized[0, 0].to(device, torch.float32)
