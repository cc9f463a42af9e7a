"""Randomly drawn views for SimCLR, in place of the patch grid: crops alone, or the usual contrastive augmentation
(spec vision 4.3)."""

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
"""Side of the crops of the contrastive augmentation, which are then enlarged to the input size."""


@dataclass(frozen=True, kw_only=True)
class RandomViews(PixelViews):
    """`n_views` random views, drawn one after the other: with a smaller `n_views` the first ones are the same.

    skipped: number of draws that are dropped before the first view. view_size: side of the views in pixels; 0 is the
    input size.
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
        """Draw all views of an image from torch's global stream (seeded by the caller for this sample)."""
        transform = self.transform()
        drawn = [transform(item) for _ in range(self.skipped + self.n_views)]
        return torch.stack([as_pixels(view) for view in drawn[self.skipped :]])

    def render(self, batch: UInt8[Tensor, "b v c h w"]) -> Any:
        """Normalise and resize to the size of the views: `[b v c h w] -> [b*v c s s]`.

        Views that keep their own size are in a list.
        """
        views = super().render(batch)
        size = self.sizes[:1] * 2
        if views.shape[2:] != size:
            views = interpolate(views, size, mode="bilinear", antialias=True)
        return [views] if self.own_sizes else views

    def transform(self) -> v2.Transform:
        """Return the transform from an image to one view in 8 bits."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RandomCrops(RandomViews):
    """Random resized crops (area 0.08 to 1) and nothing else."""

    kind = "random-crops"

    def transform(self) -> v2.Transform:
        """Return the transform that crops."""
        return v2.RandomResizedCrop(self.sizes[0], antialias=True)


@dataclass(frozen=True, kw_only=True)
class ContrastiveViews(RandomViews):
    """Flip, crop to 96 pixels, colour jitter, grayscale, blur."""

    kind = "default"

    def transform(self) -> v2.Transform:
        """Return the transform that makes an augmented view."""
        return v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomResizedCrop(AUGMENTED_SIZE, antialias=True),
                v2.RandomApply([v2.ColorJitter(0.5, 0.5, 0.5, 0.1)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.GaussianBlur(9),
            ]
        )
