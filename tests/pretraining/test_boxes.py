"""Crops overlap, and their boxes are their positions in the image (spec udi 3.1, 8.2).

`rows` and `columns` of a crop are the first pixel and the pixel *after* the last. The end of a `box` is the last pixel.
The reference crop is the crop towards which another crop is shifted.
"""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fungi.pretraining.udi.boxes import Crop, multi_crops, random_crop, reference_crop, shifted_towards
from fungi.pretraining.udi.choices import DEVIATIONS, Deviations
from fungi.pretraining.udi.views import ViewOptions, collate, make_views
from tests.daily import slow_after_first

# Heights and widths of images in pixels.
SIZES = [(480, 640), (64, 64), (200, 31), (3, 500), (1, 1), (2, 1)]


def relative_overlap(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return the overlap of two spans divided by the length of the shorter span; negative if there is a gap.

    A span consists of its first pixel and the pixel after its last.
    """
    overlap = min(first[1], second[1]) - max(first[0], second[0])
    return overlap / min(first[1] - first[0], second[1] - second[0])


@pytest.mark.parametrize("size", slow_after_first(SIZES, 2))
def test_crops_lie_in_the_image_and_overlap_by_half_of_the_smaller_side(size: tuple[int, int]) -> None:
    for seed in range(60):
        crops = multi_crops(
            np.random.default_rng(seed),
            size,
            local_crops=3,
            global_scale=(0.25, 1.0),
            local_scale=(0.05, 0.25),
            deviations=DEVIATIONS["clean"],
        )
        first, second, *local_crops = crops
        union = reference_crop(first, second, DEVIATIONS["clean"])  # the smallest rectangle around both global crops
        for crop in crops:
            assert crop.top >= 0
            assert crop.left >= 0
            assert crop.rows[1] <= size[0]
            assert crop.columns[1] <= size[1]
        for crop, other in [(second, first), *((local, union) for local in local_crops)]:
            assert relative_overlap(crop.rows, other.rows) >= 0.5
            assert relative_overlap(crop.columns, other.columns) >= 0.5


def test_the_published_shift_leaves_some_crops_without_overlap() -> None:
    """The published code confuses two axes: it takes the first row of a crop for its first column (spec udi 8.2).

    The new crop has the columns 10 to 39 and starts in row 60. The published code therefore measures its columns from
    column 60. The reference crop starts in column 70, so the published code sees an overlap and does not move the crop.
    """
    reference = Crop(top=0, left=70, height=30, width=30)
    new = Crop(top=60, left=10, height=30, width=30)
    clean = shifted_towards(new, reference, height=100, width=100, deviations=DEVIATIONS["clean"])
    published = shifted_towards(new, reference, height=100, width=100, deviations=Deviations(row_start_in_columns=True))
    assert relative_overlap(clean.columns, reference.columns) == 0.5
    assert relative_overlap(published.columns, reference.columns) < 0
    assert published.top == clean.top


def published_start(new: tuple[int, int], reference: tuple[int, int], limit: int) -> int:
    """Return the start of a crop on one axis after the published shift (spec udi 3.1, 7.6).

    new, reference: first pixel of each crop on this axis, and the pixel after the last. limit: length of the axis.
    """
    new_side, reference_side = new[1] - new[0], reference[1] - reference[0]
    smaller = min(reference_side - 1, new_side)  # the published code subtracts 1 from this side only
    extent = max(new[1], reference[1]) - min(new[0], reference[0])
    shift = max(0, extent - new_side - reference_side)
    if extent >= new_side + reference_side - smaller / 2:
        shift += round(0.5 * smaller)
    start = new[0]
    if sum(reference) > sum(new):  # a sum of first and last is twice the centre
        start += shift
    elif sum(reference) < sum(new):
        start -= shift
    return min(max(start, 0), limit - new_side)


def test_the_published_shift_equals_the_formula_of_the_specification() -> None:
    random, published, different_starts = np.random.default_rng(0), DEVIATIONS["published"], 0
    for _ in range(400):
        limit = int(random.integers(8, 60))
        starts, sides = random.integers(0, limit // 2, 2), random.integers(1, limit // 2, 2)
        # Rows and columns are equal, so that a start row in the place of a start column changes nothing.
        new, reference = (
            Crop(int(start), int(start), int(side), int(side)) for start, side in zip(starts, sides, strict=True)
        )
        moved = shifted_towards(new, reference, limit, limit, published)
        assert moved.top == moved.left == published_start(new.rows, reference.rows, limit)
        different_starts += moved.top != shifted_towards(new, reference, limit, limit, DEVIATIONS["clean"]).top
    assert different_starts > 20  # of 400: the published shift is not the clean one


@pytest.mark.parametrize("profile", DEVIATIONS)
def test_crops_whose_horizontal_centres_are_equal_do_not_move_horizontally(profile: str) -> None:
    """The centre of the columns is 50 for both crops.

    The published code computes a shift above 0 here, because it measures the columns of the new crop from its first
    row, 0. The shift has no direction, because the centres are equal.
    """
    new = Crop(top=0, left=40, height=10, width=20)
    reference = Crop(top=30, left=45, height=10, width=10)
    assert shifted_towards(new, reference, height=100, width=100, deviations=DEVIATIONS[profile]).left == 40


def test_the_published_reference_crop_depends_on_flips() -> None:
    """If both crops are flipped, the published columns are the intersection of the crops instead of the union."""
    first, second = Crop(0, 0, 40, 60), Crop(20, 40, 40, 50)
    mirrored = [Crop(crop.top, crop.left, crop.height, crop.width, flipped=True) for crop in (first, second)]
    union, published = Crop(0, 0, 60, 90), DEVIATIONS["published"]
    assert reference_crop(*mirrored, DEVIATIONS["clean"]) == reference_crop(first, second, published) == union
    assert reference_crop(*mirrored, published).columns == (40, 60)  # columns 0 to 59 and 40 to 89


def test_a_flipped_crop_swaps_its_columns() -> None:
    """A box is (first row, first column, last row, last column) of the view; here, rows 2 to 6 and columns 3 to 9."""
    not_flipped = Crop(top=2, left=3, height=5, width=7)
    assert not_flipped.box == (2, 3, 6, 9)
    assert replace(not_flipped, flipped=True).box == (2, 9, 6, 3)


def test_the_share_of_the_area_is_drawn_from_the_whole_range() -> None:
    random = np.random.default_rng(0)
    crops = [random_crop(random, height=100, width=100, scale=(0.3, 0.6)) for _ in range(300)]
    areas = [crop.height * crop.width / 10_000 for crop in crops]
    # Sides are rounded to whole pixels, so an area can differ a little from its drawn share.
    assert 0.28 < min(areas) < 0.34
    assert 0.55 < max(areas) < 0.62


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("local_crops", [0, 2])
def test_images_of_any_size_have_views_inside_them(size: tuple[int, int], local_crops: int) -> None:
    options = ViewOptions(
        global_size=8, local_size=4, patch_size=4, global_window=2, local_window=1, local_crops=local_crops
    )
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))
    views = collate([make_views(image, options, np.random.default_rng(seed)) for seed in range(3)])
    assert views.globals.shape == (2, 3, 3, 8, 8)
    assert views.locals.shape == (local_crops, 3, 3, 4, 4)
    assert views.boxes.shape == (2 + local_crops, 3, 4)
    assert views.boxes[:, :, 0::2].max() < size[0]
    assert views.boxes[:, :, 1::2].max() < size[1]
