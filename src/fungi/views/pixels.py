"""Convert 8-bit images to the input of a vision backbone."""

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
    """Raise FungiError for a side in pixels that is negative or larger than `largest`; 0 means the usual side."""
    if not 0 <= size <= largest:
        raise FungiError(
            f"{option} is {size} pixels, but the backbone's input has {largest}. Use 1 to {largest}, or 0 for the "
            "usual size."
        )


def resize_shorter_side(image: Image.Image, size: int, interpolation: Literal["bicubic", "bilinear"]) -> Image.Image:
    """Resize the shorter side to `size`, antialiased, with the same aspect ratio.

    The longer side is rounded down, as in torchvision.
    """
    width, height = image.size
    shorter_side = min(width, height)
    new_size = (int(size * width / shorter_side), int(size * height / shorter_side))
    return image if new_size == image.size else image.resize(new_size, FILTERS[interpolation])


def normalize(
    pixels: UInt8[Tensor, "n c h w"] | Float[Tensor, "n c h w"], statistics: tuple[Triple, Triple]
) -> Float[Tensor, "n c h w"]:
    """Subtract the mean of each channel and divide by its standard deviation. 8-bit values are first scaled to 0..1."""
    values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    mean, deviation = channel_statistics(statistics, pixels.device)
    return (values - mean) / deviation


@cache
def channel_statistics(
    statistics: tuple[Triple, Triple], device: torch.device
) -> tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]:
    """Return mean and standard deviation on a device. The result is cached, because a copy waits for the device."""
    mean, deviation = (torch.tensor(numbers, device=device).view(3, 1, 1) for numbers in statistics)
    return mean, deviation


class PixelViews:
    """Base class of views whose pixels are sent to the device in 8 bits. The class stacks and normalises the pixels."""

    input: ImageInput

    @property
    def n_views(self) -> int:
        """Number of views of an image, v."""
        raise NotImplementedError

    @property
    def identity(self) -> str:
        """Text that is equal for generators of the same views."""
        return repr(self)

    @property
    def input_size(self) -> int:
        """Side of the backbone input in pixels."""
        return self.input.size

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels. Subclasses with smaller views override this property."""
        return (self.input.size,) * self.n_views

    @property
    def has_own_sizes(self) -> bool:
        """Whether some views are encoded at another size than the input size."""
        return any(size != self.input.size for size in self.sizes)

    def collate(self, prepared: Sequence[UInt8[Tensor, "v c h w"]]) -> UInt8[Tensor, "b v c h w"]:
        """Stack a batch."""
        return torch.stack(list(prepared))

    def render(self, batch: UInt8[Tensor, "b v c h w"] | Float[Tensor, "b v c h w"]) -> Float[Tensor, "m c h w"]:
        """Normalise the views: `[b v c h w] -> [m c h w]` with m = b*v."""
        return normalize(batch.flatten(0, 1), self.input.statistics_of_views)
