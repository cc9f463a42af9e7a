"""Augment images strongly for the training of a classifier: RandAugment, random crops, erasing (spec udi 7.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import nextafter
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fungi.views.image import ImageInput

POLICY = "rand-m9-mstd0.5-inc1"
LARGEST_MAGNITUDE = nextafter(10.0, 0.0)
"""Largest magnitude of an operation, just below 10. timm draws 10 once in 40 draws. With 10, timm asks Pillow for 0
bits of a channel, and Pillow 13 raises an error for 0 bits."""


@dataclass(frozen=True, kw_only=True)
class AugmentedViews:
    """Generator of `repeats` random, normalised views of an image (repeated augmentation).

    erasing: probability that a random rectangle of a view is replaced by noise.

    The views use the global random generators, which `fungi.views.loading` seeds with sample and epoch.
    """

    input: ImageInput
    erasing: float = 0.25
    repeats: int = 1

    kind = "augmented"

    @property
    def n_views(self) -> int:
        """The number of views of an image."""
        return self.repeats

    @property
    def identity(self) -> str:
        """A text that is equal for generators of equal views."""
        return repr(self)

    def prepare(self, item: Image.Image) -> Float[Tensor, "r 3 s s"]:
        """Return the views of one image."""
        transform = _transform(self.input, self.erasing)
        return torch.stack([transform(item) for _ in range(self.repeats)])

    def collate(self, prepared: Sequence[Float[Tensor, "r 3 s s"]]) -> Float[Tensor, "n 3 s s"]:
        """Stack a batch. The views of an image are next to each other."""
        return torch.stack(list(prepared)).flatten(0, 1)

    def render(self, batch: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 3 s s"]:
        """Return the batch unchanged, because `prepare` does all of the augmentation."""
        return batch


@cache
def _transform(image_input: ImageInput, erasing: float) -> Callable[[Image.Image], Any]:
    """Return timm's transform for training, with magnitudes that Pillow accepts. erasing: probability of erasing."""
    from timm.data import create_transform
    from timm.data.auto_augment import RandAugment

    mean, deviation = image_input.statistics
    transform: Any = create_transform(
        image_input.size,
        is_training=True,
        auto_augment=POLICY,
        interpolation="bicubic",
        mean=mean,
        std=deviation,
        re_prob=erasing,
        re_mode="pixel",
    )
    (policy,) = (step for step in transform.transforms if isinstance(step, RandAugment))
    for operation in policy.ops:
        operation.magnitude_max = LARGEST_MAGNITUDE
    return transform
