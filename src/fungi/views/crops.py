"""Multi-crop views of DINO: 2 global and 10 local random resized crops (spec vision 4.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from fungi.errors import FungiError
from fungi.views.box_resize import resized_boxes
from fungi.views.image import ImageInput
from fungi.views.pixels import PixelViews, as_pixels, check_size

BLUR_PROBABILITY = (1.0, 0.1, 0.5)
"""Probability of blur with `augmentation=dino`: first global crop, second global crop, each local crop."""


@dataclass(frozen=True, kw_only=True)
class Crops(PixelViews):
    """Random resized crops: first the global crops, then the local crops. The published crops all have the input size.

    global_crops, local_crops: numbers of crops.
    global_area, local_area: smallest and largest area of a crop before it is resized, as a share of the image.
    global_size, local_size: side in pixels to which crops are resized; 0 is the input size. The positions of the crops
        do not depend on these sizes.
    resize_on: where images are cropped and resized. `worker` uses Pillow. `device` sends each image to the device once
        and uses matrix products (`fungi.views.box_resize`). Both draw the same boxes. On average, the pixel values from
        0 to 255 differ by less than 0.5.
    augmentation: `crops` only crops, as in the paper. `dino` adds the flips, colours, blur and solarisation with which
        DINO was trained (paper, table 15).
    stream: see `HasStream`.
    """

    input: ImageInput
    global_crops: int = 2
    local_crops: int = 10
    global_area: tuple[float, float] = (0.25, 1.0)
    local_area: tuple[float, float] = (0.05, 0.25)
    global_size: int = 0
    local_size: int = 0
    augmentation: str = "crops"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_on: Literal["worker", "device"] = "worker"
    stream: str = ""

    kind = "crops"

    def __post_init__(self) -> None:
        if self.augmentation not in ("crops", "dino"):
            raise FungiError(f"augmentation {self.augmentation!r} is not known. Use crops or dino.")
        if self.global_crops < 1 or self.local_crops < 0:
            raise FungiError(
                f"global_crops is {self.global_crops} and local_crops is {self.local_crops}, but they have to be at "
                "least 1 and 0."
            )
        if self.resize_on == "device" and self.augmentation != "crops":
            raise FungiError("resize_on=device can't apply augmentation=dino. Use resize_on=worker.")
        for name, area in (("global_area", self.global_area), ("local_area", self.local_area)):
            smallest, largest = area
            if not (0 <= smallest <= largest <= 1 and largest > 0):
                raise FungiError(
                    f"{name} is {area}, but has to be the smallest and the largest share of the image: two numbers "
                    "from 0 to 1, in this order."
                )
        check_size("global_size", self.global_size, self.input.size)
        check_size("local_size", self.local_size, self.input.size)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of each crop in pixels."""
        sides = (self.global_size or self.input.size, self.local_size or self.input.size)
        return (sides[0],) * self.global_crops + (sides[1],) * self.local_crops

    @property
    def n_views(self) -> int:
        """Number of global and local crops together."""
        return self.global_crops + self.local_crops

    def prepare(self, item: Image.Image) -> Any:
        """Draw all crops of an image from torch's global stream, which the caller seeds for this sample.

        Return the crops `[v c h w]`. If crops have different sizes, return a dictionary with the tensors `global` and
        `local`. With `resize_on=device`, return a dictionary with the image `[c h w]` and its `boxes` `[v 4]`.
        """
        if self.resize_on == "device":
            boxes = [self._box(item, view) for view in range(self.n_views)]
            return {"image": as_pixels(item), "boxes": torch.tensor(boxes)}
        crops = [as_pixels(self._transform(view)(item)) for view in range(self.n_views)]
        if not self.has_own_sizes:
            return torch.stack(crops)
        crops_by_kind = {"global": crops[: self.global_crops], "local": crops[self.global_crops :]}
        return {name: torch.stack(tensors) for name, tensors in crops_by_kind.items() if tensors}

    def collate(self, prepared: Sequence[Any]) -> Any:
        """Stack a batch. Crops of different sizes are stacked separately."""
        if self.resize_on == "device":
            return _stack_padded(prepared)
        if not self.has_own_sizes:
            return super().collate(prepared)
        return {name: torch.stack([sample[name] for sample in prepared]) for name in prepared[0]}

    def render(self, batch: Any) -> Any:
        """Normalise the views: `[b v c h w] -> [b*v c h w]`. If crops keep their own size, return a tensor per size."""
        render = super().render  # super() does not work inside a comprehension
        if self.resize_on == "device":
            views_by_size = [render(crops) for crops in self._cut(batch["image"], batch["boxes"])]
            return views_by_size if self.has_own_sizes else views_by_size[0]
        return [render(crops) for crops in batch.values()] if isinstance(batch, dict) else render(batch)

    def _cut(self, images: UInt8[Tensor, "b c h w"], boxes: Int64[Tensor, "b v 4"]) -> list[Float[Tensor, "b _ c _ _"]]:
        """Return the crops of images on the device, with values from 0 to 1, as one tensor per size."""
        first_count = self.global_crops if self.has_own_sizes else self.n_views  # number of crops of the first size
        groups = (slice(0, first_count), slice(first_count, self.n_views))
        return [
            resized_boxes(images, boxes[:, views], self.sizes[views.start], self.interpolation) / 255
            for views in groups
            if views.start < self.n_views
        ]

    def _box(self, image: Image.Image, view: int) -> list[int]:
        """Draw the box of a crop (top, left, height, width) as `_transform` does."""
        crop: Any = self._transform(view)
        box = crop.make_params([image])
        return [box[side] for side in ("top", "left", "height", "width")]

    def _transform(self, view: int) -> v2.Transform:
        """Return the random transform from an image to crop number `view`."""
        area = self.global_area if view < self.global_crops else self.local_area
        mode = InterpolationMode(self.interpolation)
        crop = v2.RandomResizedCrop(self.sizes[view], scale=area, interpolation=mode, antialias=True)
        if self.augmentation == "crops":
            return crop
        return v2.Compose([crop, *_dino_augmentation(view, self.global_crops)])


def _dino_augmentation(view: int, global_crops: int) -> list[v2.Transform]:
    """Return the transforms that follow the crop in the training of DINO. view: number of the crop."""
    # Global crops after the second are blurred as often as local crops.
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


def _stack_padded(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack images and their boxes. Smaller images are padded with zeros at the right and at the bottom."""
    height, width = (max(sample["image"].shape[axis] for sample in samples) for axis in (1, 2))
    images = [
        torch.nn.functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))
        for image in (sample["image"] for sample in samples)
    ]
    return {"image": torch.stack(images), "boxes": torch.stack([sample["boxes"] for sample in samples])}
