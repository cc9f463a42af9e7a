"""Read images with masks to train and score a segmentation head (spec udi 7.6)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fungi.data.base import VOID, Samples
from fungi.errors import UnreadableItemError
from fungi.runtime.seeds import seeded

SCALES = (0.5, 2.0)
"""Smallest and largest factor by which an image is scaled in training."""
MAX_ASPECT = 4
"""Largest longer side of a scaled image, in multiples of the requested shorter side."""
CROP_TRIES = 10
MAX_CLASS_SHARE = 0.75
"""If a class has this share of the labelled pixels of a crop or more, another crop is drawn."""


@dataclass(frozen=True)
class TrainScenes:
    """Random crops `[3 size size]` of images that are scaled, mirrored and changed in colour, with their masks."""

    samples: Samples
    size: int
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return (image uint8, mask uint8) of (epoch, row)."""
        from torchvision.transforms import v2

        epoch, row = key
        image, mask = image_and_mask(self.samples, row)
        with seeded(self.seed, "segmentation views", epoch, self.samples.ids[row]):
            shorter = round(self.size * float(torch.empty(()).uniform_(*SCALES)))
            image, mask = self._crop(*_scaled(image, mask, shorter))
            image, mask = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomPhotometricDistort()])(image, mask)
        return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)

    def _crop(self, image: Any, mask: Any) -> tuple[Any, Any]:
        """Return a random crop with at least two classes, each of which has less than the share `MAX_CLASS_SHARE`.

        The share is that of the labelled pixels. If none of `CROP_TRIES` crops is such a crop, return the last one.
        Small images are padded with grey, and their masks with void.
        """
        from torchvision.transforms import v2
        from torchvision.tv_tensors import Image, Mask

        grey = 124
        crop = v2.RandomCrop(self.size, pad_if_needed=True, fill={Image: grey, Mask: VOID})
        for _ in range(CROP_TRIES):
            pixels, labels = crop(image, mask)
            counts = torch.bincount(labels.flatten().long(), minlength=VOID + 1)[:VOID]
            if int((counts > 0).sum()) > 1 and int(counts.max()) < MAX_CLASS_SHARE * int(counts.sum()):
                break
        return pixels, labels


@dataclass(frozen=True)
class FullScenes:
    """Full images, scaled to a shorter side of `size`, with masks of the original size."""

    samples: Samples
    size: int

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        """Return (image uint8 `[3 h w]`, mask uint8 `[H W]`)."""
        image, mask = image_and_mask(self.samples, row)
        return _scaled(image, mask, self.size)[0].as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)[0]


def image_and_mask(samples: Samples, row: int) -> tuple[Any, Any]:
    """Return an image `[3 h w]` and its mask `[1 h w]`. Raises UnreadableItemError if their sizes differ."""
    from torchvision.transforms.v2 import functional
    from torchvision.tv_tensors import Image, Mask

    assert samples.mask is not None
    image, mask = functional.pil_to_tensor(samples.load(row)), torch.from_numpy(samples.mask(row))[None]
    if image.shape[1:] != mask.shape[1:]:
        shapes = f"{tuple(image.shape[1:])} and {tuple(mask.shape[1:])}"
        raise UnreadableItemError(f"image {samples.ids[row]} and its mask have different sizes: {shapes}.")
    return Image(image), Mask(mask)


def _scaled(image: Any, mask: Any, shorter: int) -> tuple[Any, Any]:
    """Return image and mask with this shorter side. A smaller scale is used if the longer side would be too long."""
    from torchvision.transforms import v2

    return v2.Resize(shorter, max_size=MAX_ASPECT * shorter)(image, mask)
