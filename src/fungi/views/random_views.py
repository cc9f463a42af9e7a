"""Random views for SimCLR, as a replacement of the patch grid (spec vision 4.3).

The views are random crops, or they have the usual contrastive augmentation.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from fungi.errors import FungiError
from fungi.views.image import ImageInput
from fungi.views.pixels import PixelViews, as_pixels, check_size

AUGMENTED_SIZE = 96
"""Side in pixels of the crops of the contrastive augmentation. The crops are then enlarged to the size of the views."""


@dataclass(frozen=True, kw_only=True)
class RandomViews(PixelViews):
    """Generator of `n_views` random views. The first views do not depend on `n_views`.

    skipped: number of random views that are drawn and dropped before the first view.
    view_size: side of the views in pixels; 0 is the input size.
    stream: see `HasStream`.
    """

    input: ImageInput
    n_views: int = 0
    stream: str = ""
    skipped: int = 0
    view_size: int = 0

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        if self.n_views < 2:
            raise FungiError(
                f"n_views is {self.n_views}: set it to at least 2, so that views of an image can attract each other."
            )
        check_size("view_size", self.view_size, self.input.size)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each view in pixels."""
        return (self.view_size or self.input.size,) * self.n_views

    def prepare(self, item: Image.Image) -> UInt8[Tensor, "v c h w"]:
        """Draw all views of an image from torch's global stream, which the caller seeds for this sample."""
        transform = self.transform()
        views = [transform(item) for _ in range(self.skipped + self.n_views)]
        return torch.stack([as_pixels(view) for view in views[self.skipped :]])

    def render(self, batch: UInt8[Tensor, "b v c h w"]) -> Any:
        """Normalise the views and resize them: `[b v c h w] -> [b*v c s s]`; s is the side of a view.

        Views that keep their own size are returned in a list.
        """
        views = super().render(batch)
        size = self.sizes[:1] * 2  # height and width; all views have the same size
        if views.shape[2:] != size:
            views = interpolate(views, size, mode="bilinear", antialias=True)
        return [views] if self.has_own_sizes else views

    def transform(self) -> v2.Transform:
        """Return the transform from an image to one view in 8 bits."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RandomCrops(RandomViews):
    """Random resized crops (area 0.08 to 1) without further augmentation."""

    kind = "random-crops"

    def transform(self) -> v2.Transform:
        """Return the transform that crops."""
        return v2.RandomResizedCrop(self.sizes[0], antialias=True)


@dataclass(frozen=True, kw_only=True)
class ContrastiveViews(RandomViews):
    """Views with the contrastive augmentation: flip, crop to 96 pixels, colour jitter, grayscale, blur."""

    kind = "default"

    def transform(self) -> v2.Transform:
        """Return the transform of the contrastive augmentation."""
        return v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomResizedCrop(AUGMENTED_SIZE, antialias=True),
                v2.RandomApply([v2.ColorJitter(0.5, 0.5, 0.5, 0.1)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.GaussianBlur(9),
            ]
        )
