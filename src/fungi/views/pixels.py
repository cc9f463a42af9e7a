"""From 8-bit images to the input of a vision backbone."""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from fungi.errors import FungiError
from fungi.views.image import ImageInput, Triple

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def as_pixels(image: Image.Image) -> UInt8[Tensor, "c h w"]:
    """Return the pixels of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def check_size(option: str, size: int, largest: int) -> None:
    """Raise FungiError for a side in pixels that is negative or larger than `largest`; 0 stands for the usual side."""
    if not 0 <= size <= largest:
        raise FungiError(
            f"{option} is {size} pixels, but the backbone's input has {largest}. Use 1 to {largest}, or 0 for the "
            "usual size."
        )


def resize_shorter_side(image: Image.Image, size: int, interpolation: Literal["bicubic", "bilinear"]) -> Image.Image:
    """Resize the shorter side to `size`, antialiased, and keep the aspect; the longer side is rounded down, as in
    torchvision."""
    width, height = image.size
    shorter = min(width, height)
    target = (int(size * width / shorter), int(size * height / shorter))
    return image if target == image.size else image.resize(target, FILTERS[interpolation])


def normalize(
    pixels: UInt8[Tensor, "n c h w"] | Float[Tensor, "n c h w"], statistics: tuple[Triple, Triple]
) -> Float[Tensor, "n c h w"]:
    """Bring 8-bit values, or floats in 0..1, to zero mean and unit deviation per channel; float32."""
    values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    mean, deviation = moments(statistics, pixels.device)
    return (values - mean) / deviation


@cache
def moments(
    statistics: tuple[Triple, Triple], device: torch.device
) -> tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]:
    """Return mean and deviation on a device, sent there once: sending them waits for the device."""
    mean, deviation = (torch.tensor(numbers, device=device).view(3, 1, 1) for numbers in statistics)
    return mean, deviation


class PixelViews:
    """Stacking and normalisation of views whose pixels are sent to the device in 8 bits."""

    input: ImageInput

    @property
    def n_views(self) -> int:
        """V: the number of views of an image."""
        raise NotImplementedError

    @property
    def identity(self) -> str:
        """Equal for generators of the same views."""
        return repr(self)

    @property
    def input_size(self) -> int:
        """Side of the backbone's input in pixels."""
        return self.input.size

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels: that of the input, unless overridden."""
        return (self.input.size,) * self.n_views

    @property
    def own_sizes(self) -> bool:
        """Whether some views are encoded at another size than that of the backbone's input."""
        return any(size != self.input.size for size in self.sizes)

    def collate(self, prepared: Sequence[UInt8[Tensor, "v c h w"]]) -> UInt8[Tensor, "b v c h w"]:
        """Stack a batch."""
        return torch.stack(list(prepared))

    def render(self, batch: UInt8[Tensor, "b v c h w"] | Float[Tensor, "b v c h w"]) -> Float[Tensor, "m c h2 w2"]:
        """Normalise: `[b v c h w] -> [b*v c h w]`."""
        return normalize(batch.flatten(0, 1), self.input.view_statistics or self.input.statistics)
