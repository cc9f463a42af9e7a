"""Crops on the device: the same boxes as the workers', and values within a few grey levels of Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fungi.errors import FungiError
from fungi.runtime.seeds import seeded
from fungi.views.image import ImageInput

INPUT = ImageInput(size=32, resize=32)
SIZES = ((90, 61), (40, 130), (25, 20))


def pictures(*, low: int = 0, high: int = 256) -> list[Image.Image]:
    """Noise: the hardest case for a resize; larger and smaller than the crops, wide and tall."""
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(low, high, (*size, 3), dtype=np.uint8)) for size in SIZES]


def rendered(images: list[Image.Image], **options: object) -> list[Tensor]:
    """Views in grey levels, `[b v c s s]` by size."""
    views, prepared = INPUT.views("crops", **options), []
    for number, image in enumerate(images):
        with seeded(42, str(number)):
            prepared.append(views.prepare(image))
    parts = views.render(views.collate(prepared))
    mean, deviation = (torch.tensor(moment).view(3, 1, 1) for moment in INPUT.statistics)
    parts = parts if isinstance(parts, list) else [parts]
    return [(255 * (part * deviation + mean)).unflatten(0, (len(images), -1)) for part in parts]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sizes", [{}, {"local_size": 16}, {"global_size": 24, "local_size": 16}])
def test_values_are_those_of_the_workers_but_for_their_rounding(interpolation: str, sizes: dict[str, int]) -> None:
    options = {**sizes, "interpolation": interpolation}
    grey, full = pictures(low=80, high=176), pictures()  # greys never leave 0..255 between the passes
    for images, mean, largest in ((grey, 0.5, 1.5), (full, 0.5, 40)):
        of_workers, of_device = rendered(images, **options), rendered(images, **options, resize_on="device")
        for expected, values in zip(of_workers, of_device, strict=True):
            distance = (values - expected).abs()
            assert values.shape == expected.shape
            assert distance.mean() < mean  # of 255: Pillow rounds twice
            assert distance.max() < largest


def test_a_picture_alone_has_the_views_that_it_has_beside_larger_ones() -> None:
    (together,) = rendered(pictures(), resize_on="device")
    (alone,) = rendered(pictures()[:1], resize_on="device")
    torch.testing.assert_close(alone[0], together[0], rtol=0, atol=1e-3)


def test_it_is_a_choice_that_shows_and_knows_crops_alone() -> None:
    assert INPUT.views("crops").identity != INPUT.views("crops", resize_on="device").identity
    with pytest.raises(FungiError, match="resize_on=device can't apply augmentation=dino"):
        INPUT.views("crops", resize_on="device", augmentation="dino")
