"""Draw overlapping crops of an image (spec udi 3.1).

A `Crop` has a start and a size in pixels. Its box (r0, c0, r1, c1) consists of the coordinates of its first and last
pixel, which are integers. If c0 > c1, the crop is flipped. The specification divides the box by the last row and column
of the image. Here, the box is not divided, because a division would cause rounding.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from fungi.pretraining.udi.choices import Deviations

TRIES = 10
"""Number of random crops that are tried before the central crop is used."""
LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))
"""Logarithms of the smallest and the largest aspect ratio (width / height)."""
Span = tuple[int, int]
"""First pixel along an axis, and the pixel after the last."""


@dataclass(frozen=True)
class Crop:
    """A rectangle of pixels of an image. top, left: its first row and column. flipped: whether its view is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool = False

    @property
    def rows(self) -> Span:
        """The first row, and the row after the last."""
        return self.top, self.top + self.height

    @property
    def columns(self) -> Span:
        """The first column, and the column after the last."""
        return self.left, self.left + self.width

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(r0, c0, r1, c1): rows and columns of the first and the last pixel of the view."""
        left, right = self.left, self.left + self.width - 1
        if self.flipped:
            left, right = right, left
        return self.top, left, self.top + self.height - 1, right


def random_crop(random: np.random.Generator, height: int, width: int, scale: tuple[float, float]) -> Crop:
    """Return a crop with random area, aspect ratio and position.

    height, width: size of the image. scale: smallest and largest share of the image. If no draw fits into the image,
    return the largest central crop.
    """
    for _ in range(TRIES):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(*LOG_ASPECT))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Crop(int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w)
    aspect = min(max(width / height, math.exp(LOG_ASPECT[0])), math.exp(LOG_ASPECT[1]))
    w, h = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
    return Crop((height - h) // 2, (width - w) // 2, h, w)


def shifted_towards(crop: Crop, reference: Crop, height: int, width: int, deviations: Deviations) -> Crop:
    """Return the crop, shifted towards the reference crop.

    Along each axis, the overlap of the two crops is then at least half of the smaller side. height, width: size of the
    image, which contains the shifted crop.
    """
    top = _shifted_start(crop.rows, reference.rows, height, deviations, start=crop.top)
    start = crop.top if deviations.row_start_in_columns else crop.left
    return replace(crop, top=top, left=_shifted_start(crop.columns, reference.columns, width, deviations, start=start))


def _shifted_start(span: Span, reference: Span, limit: int, deviations: Deviations, *, start: int) -> int:
    """Return the start of a span after its shift towards the span of the reference crop.

    limit: length of the axis. start: start of the span, from which the extent of the two spans together is measured;
    `span[0]`, except with the deviation `row_start_in_columns`.
    """
    length, reference_length = span[1] - span[0], reference[1] - reference[0]
    smaller = min(length, reference_length - 1) if deviations.rounded_overlap else min(length, reference_length)
    half = round(smaller / 2) if deviations.rounded_overlap else math.ceil(smaller / 2)
    extent = max(span[1], reference[1]) - min(start, reference[0])
    gap = max(0, extent - length - reference_length)
    shift = gap + (half if extent >= length + reference_length - smaller / 2 else 0)
    centre, reference_centre = sum(span), sum(reference)  # twice the centres
    direction = (centre < reference_centre) - (centre > reference_centre)
    return min(max(span[0] + direction * shift, 0), limit - length)


def reference_crop(first: Crop, second: Crop, deviations: Deviations) -> Crop:
    """Return the smallest rectangle around both global crops. Local crops are shifted towards this rectangle."""
    top, bottom = min(first.top, second.top), max(first.rows[1], second.rows[1])
    spans = [crop.columns for crop in (first, second)]
    if deviations.signed_reference:
        spans = [
            (end, start) if crop.flipped else (start, end)
            for (start, end), crop in zip(spans, (first, second), strict=True)
        ]
    left, right = sorted((min(start for start, _ in spans), max(end for _, end in spans)))
    return Crop(top, left, bottom - top, right - left)


def multi_crops(
    random: np.random.Generator,
    size: tuple[int, int],
    *,
    local_crops: int,
    global_scale: tuple[float, float],
    local_scale: tuple[float, float],
    deviations: Deviations,
) -> list[Crop]:
    """Draw two global crops and `local_crops` local crops of an image of size (height, width).

    global_scale, local_scale: smallest and largest share of the image in a global crop and in a local crop.

    Each crop is flipped with probability 0.5.
    """

    def random_flip(crop: Crop) -> Crop:
        return replace(crop, flipped=bool(random.random() < 0.5))

    first = random_flip(random_crop(random, *size, global_scale))
    second = shifted_towards(random_crop(random, *size, global_scale), first, *size, deviations)
    crops = [first, random_flip(second)]
    reference = reference_crop(crops[0], crops[1], deviations)
    for _ in range(local_crops):
        local = random_crop(random, *size, local_scale)
        crops.append(random_flip(shifted_towards(local, reference, *size, deviations)))
    return crops
