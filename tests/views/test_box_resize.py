"""Crops that are resized on the device have the boxes of the workers' crops, and almost the same values."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fungi.errors import FungiError
from fungi.runtime.seeds import seeded
from fungi.views.image import ImageInput

INPUT = ImageInput(size=32, resize=32)
# Heights and widths of images in pixels.
SIZES = ((90, 61), (40, 130), (25, 20))


def pictures(*, low: int = 0, high: int = 256) -> list[Image.Image]:
    """Return images of noise, the hardest case for a resize: larger and smaller than the crops, wide and tall.

    low, high: limits of the grey levels; `high` is excluded.
    """
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(low, high, (*size, 3), dtype=np.uint8)) for size in SIZES]


def rendered(images: list[Image.Image], **options: object) -> list[Tensor]:
    """Return the views in grey levels, a tensor `[b v c s s]` per size."""
    views, prepared = INPUT.views("crops", **options), []
    for number, image in enumerate(images):
        with seeded(42, str(number)):
            prepared.append(views.prepare(image))
    views_by_size = views.render(views.collate(prepared))
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in INPUT.statistics)
    views_by_size = views_by_size if isinstance(views_by_size, list) else [views_by_size]
    return [(255 * (normalised * deviation + mean)).unflatten(0, (len(images), -1)) for normalised in views_by_size]


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sizes", [{}, {"local_size": 16}, {"global_size": 24, "local_size": 16}])
def test_values_equal_those_of_the_workers_up_to_rounding(interpolation: str, sizes: dict[str, int]) -> None:
    options = {**sizes, "interpolation": interpolation}
    # At low contrast, no value is clipped to 0..255 between the two passes of a resize.
    low_contrast, full_contrast = pictures(low=80, high=176), pictures()
    for images, mean_bound, largest_bound in ((low_contrast, 0.5, 1.5), (full_contrast, 0.5, 40)):
        of_workers, of_device = rendered(images, **options), rendered(images, **options, resize_on="device")
        for expected, values in zip(of_workers, of_device, strict=True):
            distance = (values - expected).abs()
            assert values.shape == expected.shape
            assert distance.mean() < mean_bound  # of 255 grey levels; Pillow rounds twice
            assert distance.max() < largest_bound


def test_the_views_of_a_picture_do_not_depend_on_other_pictures() -> None:
    (together,) = rendered(pictures(), resize_on="device")
    (alone,) = rendered(pictures()[:1], resize_on="device")
    torch.testing.assert_close(alone[0], together[0], rtol=0, atol=1e-3)


def test_resizing_on_the_device_is_part_of_the_identity_and_works_only_for_crops() -> None:
    assert INPUT.views("crops").identity != INPUT.views("crops", resize_on="device").identity
    with pytest.raises(FungiError, match="resize_on=device can't apply augmentation=dino"):
        INPUT.views("crops", resize_on="device", augmentation="dino")
