"""Input of a vision backbone, and the view generators of images.

An image is resized, with antialiasing, until its shorter side has `resize` pixels; the aspect ratio does not change.
Then the centre is cropped (spec vision 2.2).
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from fungi.errors import FungiError

KINDS = {
    "plain": ("fungi.views.plain", "PlainView"),
    "crops": ("fungi.views.crops", "Crops"),
    "patches": ("fungi.views.patches", "PatchGrid"),
    "random-crops": ("fungi.views.random_views", "RandomCrops"),
    "masked-crops": ("fungi.views.masked_crops", "MaskedCrops"),
    "masked": ("fungi.views.masked_view", "MaskedView"),
    "default": ("fungi.views.random_views", "ContrastiveViews"),
}
"""Kind of image views -> module and class of its generator."""

Triple = tuple[float, float, float]

IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: tuple[Triple, Triple] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNIT: tuple[Triple, Triple] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation per channel, for pixel values from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """Evaluation transform of a backbone: resize, centre crop to `size`, normalise with `statistics`.

    size, resize: side of the input, and shorter side of the image before the crop, in pixels.
    statistics: mean and standard deviation per channel.
    view_statistics: statistics for the views of DINO and SimCLR; None: the same as `statistics`. The published profile
        sets the statistics of ImageNet.
    squashed: whether the image is resized to a square without a crop, which changes its aspect ratio.
    """

    size: int = 224
    resize: int = 256
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    statistics: tuple[Triple, Triple] = IMAGENET
    view_statistics: tuple[Triple, Triple] | None = None

    modality = "vision"
    squashed: ClassVar[bool] = False

    def __str__(self) -> str:
        steps = "resized as a whole" if self.squashed else f"shorter side to {self.resize}, centre cropped"
        return f"images {steps} to {self.size} x {self.size} pixels, {self.interpolation}"

    @classmethod
    def square(cls, size: int) -> "ImageInput":
        """Return the usual transform for an input size: resize to 8/7 of the size (256 for 224) and crop the centre."""
        return cls(size=size, resize=round(size * 256 / 224))

    def resized(self, size: int) -> "ImageInput":
        """Return the transform for another input size. `resize` changes in proportion."""
        return replace(self, size=size, resize=round(self.resize * size / self.size))

    def patches_per_side(self, patch_size: int) -> int:
        """Return the number of patches along a side. Raises FungiError if it is not a whole number."""
        if patch_size < 1 or self.size % patch_size:
            raise FungiError(f"patch_size {patch_size} does not divide the input size {self.size}.")
        return self.size // patch_size

    @property
    def statistics_of_views(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation per channel for views: `view_statistics`, or `statistics` if it is None."""
        return self.view_statistics or self.statistics

    def with_imagenet_views(self) -> "ImageInput":
        """Return the same input with the statistics of ImageNet for views, as published (spec vision 10, V3)."""
        return replace(self, view_statistics=IMAGENET)

    def views(self, kind: str, **options: Any) -> Any:
        """Return the view generator of a kind (`plain`, `crops`, `patches`, ...; see KINDS).

        Raises FungiError for an unknown kind or option.
        """
        from fungi.views.base import choose_views

        return choose_views(KINDS, self, kind, **options)


class SquashedInput(ImageInput):
    """Transform that resizes the complete image to `size` x `size`, as SigLIP does. The aspect ratio changes."""

    squashed = True
