"""The patch grid of SimCLR: overlapping patches of one image as its positive views (spec vision 4.3).

Resizing is linear and separable, so every patch comes from two small matrix products with the bicubic resize matrix
instead of one resize per patch.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from fungi.errors import FungiError
from fungi.views.image import ImageInput
from fungi.views.pixels import PixelViews, as_pixels, normalize


@dataclass(frozen=True, kw_only=True)
class PatchGrid(PixelViews):
    """Patches of side `size / grid`, `stride_scale` steps per side, row-major, each resized back to `size`.

    No other augmentation: the views of an image are deterministic. 224 pixels, grid 2, stride scale 6 make 7 x 7 = 49.
    """

    input: ImageInput
    grid: int = 2
    stride_scale: int = 6

    kind = "patches"
    deterministic = True

    def __post_init__(self) -> None:
        if self.grid < 1 or self.stride_scale < 1 or self.stride < 1:
            raise FungiError(
                f"patches of {self.side} pixels can't be moved in {self.stride_scale} steps: "
                f"grid {self.grid} and stride_scale {self.stride_scale} don't fit {self.input.size} pixels."
            )

    @property
    def side(self) -> int:
        """Side of a patch in pixels."""
        return self.input.size // self.grid

    @property
    def stride(self) -> int:
        """Distance of neighbouring patches in pixels."""
        return self.side // self.stride_scale

    @property
    def n_views(self) -> int:
        """Patches per image."""
        return ((self.input.size - self.side) // self.stride + 1) ** 2

    def prepare(self, item: Image.Image) -> UInt8[Tensor, "1 c h w"]:
        """Image of any size -> square of the input size, aspect not kept."""
        square = item.resize((self.input.size, self.input.size), Image.Resampling.BICUBIC)
        return as_pixels(square).unsqueeze(0)

    def render(self, batch: UInt8[Tensor, "b 1 c s s"]) -> Float[Tensor, "m c s s"]:
        """All patches of all images, resized and normalised: `[b 1 c s s] -> [b*v c s s]`."""
        images = batch.squeeze(1).float() / 255
        patches = resized_patches(images, self.side, self.stride)
        return normalize(patches.flatten(0, 1), self.input.view_statistics or self.input.statistics)


def resized_patches(images: Float[Tensor, "b c s s"], side: int, stride: int) -> Float[Tensor, "b v c s s"]:
    """All `side x side` patches at multiples of `stride`, bicubically resized back to `s x s`."""
    size = images.shape[-1]
    resize = resize_matrix(side, size, images.device)
    rows = images.unfold(2, side, stride)  # [b c y w side]
    rows = rows @ resize.T  # [b c y w s]: height resized, width still whole
    both = rows.unfold(3, side, stride)  # [b c y x s side]
    both = both @ resize.T  # [b c y x s(height) s(width)]
    batch, channels = images.shape[:2]
    return both.permute(0, 2, 3, 1, 4, 5).reshape(batch, -1, channels, size, size)  # [b y x c s s] -> [b v c s s]


@cache
def resize_matrix(side: int, size: int, device: torch.device) -> Float[Tensor, "size side"]:
    """The bicubic, antialiased resize of a line of `side` values to `size`, as a matrix: the resize of the identity.

    It is sent to a device once: sending it waits for the device.
    """
    identity = torch.eye(side, dtype=torch.float64).expand(1, 1, side, side)
    resized = torch.nn.functional.interpolate(identity, size=(size, side), mode="bicubic", antialias=True)
    return resized[0, 0].to(device, torch.float32)
