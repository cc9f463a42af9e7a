"""Overlapping crops and their positions in the image (spec udi 3.1).

A `Crop` has a start and a size in pixels. Samples are aligned with its box (r0, c0, r1, c1), which contains the integer
coordinates of its first and last pixel. If c0 > c1, the crop is flipped. The specification divides the box by the last
row and column of the image. This does not change the relations between crops of an image, but it causes rounding.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from fungi.pretraining.udi.choices import Deviations

TRIES = 10
LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))
Span = tuple[int, int]
"""Start and end (exclusive) along an axis, in pixels."""


@dataclass(frozen=True)
class Crop:
    """A rectangle of pixels of an image. `flipped` says if its view is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool = False

    @property
    def rows(self) -> Span:
        """First row, and the row after the last."""
        return self.top, self.top + self.height

    @property
    def columns(self) -> Span:
        """First column, and the column after the last."""
        return self.left, self.left + self.width

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(r0, c0, r1, c1): rows and columns of the first and the last pixel of the view."""
        left, right = self.left, self.left + self.width - 1
        if self.flipped:
            left, right = right, left
        return self.top, left, self.top + self.height - 1, right


def random_crop(random: np.random.Generator, height: int, width: int, scale: tuple[float, float]) -> Crop:
    """Draw a crop with random area, aspect ratio and position. If no draw fits, return the largest central crop."""
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
    """Move the crop until it overlaps the reference by at least half of the smaller side, along both axes."""
    top = _shifted(crop.rows, reference.rows, height, deviations, start=crop.top)
    start = crop.top if deviations.row_start_in_columns else crop.left
    return replace(crop, top=top, left=_shifted(crop.columns, reference.columns, width, deviations, start=start))


def _shifted(new: Span, reference: Span, limit: int, deviations: Deviations, *, start: int) -> int:
    """Return the new start of a span. The joint extent of both spans is measured from `start`."""
    a, b = new[1] - new[0], reference[1] - reference[0]
    smaller = min(a, b - 1) if deviations.rounded_overlap else min(a, b)
    half = round(smaller / 2) if deviations.rounded_overlap else math.ceil(smaller / 2)
    extent = max(new[1], reference[1]) - min(start, reference[0])
    shift = max(0, extent - a - b) + (half if extent >= a + b - smaller / 2 else 0)
    centres = sum(new), sum(reference)  # spans with equal centres do not move
    direction = (centres[0] < centres[1]) - (centres[0] > centres[1])
    return min(max(new[0] + direction * shift, 0), limit - a)


def reference_crop(first: Crop, second: Crop, deviations: Deviations) -> Crop:
    """Return the smallest rectangle around both global crops. Local crops are moved towards it."""
    top, bottom = min(first.top, second.top), max(first.rows[1], second.rows[1])
    columns = [crop.columns for crop in (first, second)]
    if deviations.signed_reference:
        columns = [(c[1], c[0]) if crop.flipped else c for c, crop in zip(columns, (first, second), strict=True)]
    left, right = sorted((min(c[0] for c in columns), max(c[1] for c in columns)))
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

    Each crop is flipped with probability 0.5.
    """

    def flipped(crop: Crop) -> Crop:
        return replace(crop, flipped=bool(random.random() < 0.5))

    first = flipped(random_crop(random, *size, global_scale))
    second = shifted_towards(random_crop(random, *size, global_scale), first, *size, deviations)
    crops = [first, flipped(second)]
    reference = reference_crop(crops[0], crops[1], deviations)
    for _ in range(local_crops):
        drawn = random_crop(random, *size, local_scale)
        crops.append(flipped(shifted_towards(drawn, reference, *size, deviations)))
    return crops
