"""Multi-crop views of DINO: 2 global and 10 local random resized crops (spec vision 4.2)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from fungi.errors import FungiError
from fungi.views.image import ImageInput
from fungi.views.pixels import PixelViews, as_pixels

BLUR_PROBABILITY = (1.0, 0.1, 0.5)
"""Of the first global, the second global and every local crop, with the full augmentation."""


@dataclass(frozen=True, kw_only=True)
class Crops(PixelViews):
    """Random resized crops, global ones first, all resized to the backbone's input size (local ones too).

    augmentation: `crops` - nothing but cropping, as in the paper; `dino` - flips, colour, blur and solarisation of the
        original DINO recipe (paper, table 15).
    """

    input: ImageInput
    global_crops: int = 2
    local_crops: int = 10
    global_area: tuple[float, float] = (0.25, 1.0)
    local_area: tuple[float, float] = (0.05, 0.25)
    augmentation: str = "crops"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    stream: str = ""

    kind = "crops"

    def __post_init__(self) -> None:
        if self.augmentation not in ("crops", "dino"):
            raise FungiError(f"augmentation {self.augmentation!r} is not known. Use crops or dino.")
        if self.global_crops < 1 or self.local_crops < 0:
            raise FungiError(f"{self.global_crops} global and {self.local_crops} local crops: at least 1 and 0 needed.")

    @property
    def n_views(self) -> int:
        """Global and local crops together."""
        return self.global_crops + self.local_crops

    def prepare(self, item: Image.Image) -> UInt8[Tensor, "v c h w"]:
        """All crops of an image, drawn from torch's global stream (seeded by the caller for this sample)."""
        return torch.stack([as_pixels(self._transform(view)(item)) for view in range(self.n_views)])

    def _transform(self, view: int) -> v2.Transform:
        area = self.global_area if view < self.global_crops else self.local_area
        mode = InterpolationMode(self.interpolation)
        crop = v2.RandomResizedCrop(self.input.size, scale=area, interpolation=mode, antialias=True)
        if self.augmentation == "crops":
            return crop
        return v2.Compose([crop, *_colours(view, self.global_crops)])


def _colours(view: int, global_crops: int) -> list[v2.Transform]:
    """What the original DINO recipe does after cropping."""
    blur = BLUR_PROBABILITY[min(view, 2)] if view < global_crops else BLUR_PROBABILITY[2]
    solarize = [v2.RandomSolarize(threshold=128, p=0.2)] if view == 1 and global_crops > 1 else []
    return [
        v2.RandomHorizontalFlip(0.5),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.Lambda(_gaussian_blur)], p=blur),
        *solarize,
    ]


def _gaussian_blur(image: Image.Image) -> Image.Image:
    from PIL import ImageFilter

    radius = float(torch.empty(()).uniform_(0.1, 2.0))
    return image.filter(ImageFilter.GaussianBlur(radius))
