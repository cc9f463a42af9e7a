"""Views of images: patches, plain views and crops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.runtime.seeds import seeded
from fungi.views.crops import Crops, _gaussian_blur
from fungi.views.image import CLIP, HALF, IMAGENET, UNIT, ImageInput
from fungi.views.loading import batches, prepare
from tests.engine.golden import load


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def render(views: object, *images: Image.Image) -> torch.Tensor:
    """Return the rendered views of some images, `[images*views 3 s s]`."""
    return views.render(views.collate([views.prepare(image) for image in images]))


@pytest.mark.also_with_two_threads
def test_patches_equal_the_published_patches() -> None:
    golden = load("timm")
    views = ImageInput(size=32, resize=32).views("patches", stride_scale=4)
    images = [Image.fromarray(golden[f"image/{i}"].numpy()) for i in range(3)]
    patches = render(views, *images).reshape(3, 25, 3, 32, 32)
    torch.testing.assert_close(patches, golden["views"], rtol=0, atol=1e-5)  # values are between -3 and 3


@pytest.mark.parametrize(("stride_scale", "count"), [(6, 49), (4, 25), (3, 16), (1, 4)])
def test_the_grid_has_the_published_number_of_patches(stride_scale: int, count: int) -> None:
    assert ImageInput().views("patches", stride_scale=stride_scale).n_views == count
    assert ImageInput(size=256).views("patches", stride_scale=stride_scale).n_views == count


def test_first_and_last_patch_are_the_corners_of_the_image() -> None:
    """The expected patches are corners of the image that are cut out and resized one by one."""
    views, image = ImageInput(), noise(300, 200)
    patches = render(views.views("patches"), image)
    assert patches.shape == (49, 3, 224, 224)
    square = torch.from_numpy(np.array(image.resize((224, 224), Image.Resampling.BICUBIC))).permute(2, 0, 1) / 255
    mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in IMAGENET)
    for patch, (top, left) in {0: (0, 0), 6: (0, 108), 48: (108, 108)}.items():
        cut = square[None, :, top : top + 112, left : left + 112]
        resized = torch.nn.functional.interpolate(cut, size=224, mode="bicubic", antialias=True)[0]
        torch.testing.assert_close(patches[patch], (resized - mean) / deviation, rtol=0, atol=1e-4)


def test_the_plain_view_equals_the_transform_of_torchvision() -> None:
    image = noise(301, 457)
    for interpolation in ("bicubic", "bilinear"):
        transform = v2.Compose(
            [
                v2.Resize(256, interpolation=v2.InterpolationMode(interpolation), antialias=True),
                v2.CenterCrop(224),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(*CLIP),
            ]
        )
        views = ImageInput(interpolation=interpolation, statistics=CLIP).views("plain")
        torch.testing.assert_close(render(views, image)[0], transform(image), rtol=1e-5, atol=1e-5)


def test_small_images_are_padded_like_in_torchvision() -> None:
    image = noise(10, 9)
    expected = v2.PILToTensor()(v2.CenterCrop(32)(v2.Resize(32, interpolation=v2.InterpolationMode.BICUBIC)(image)))
    assert torch.equal(ImageInput(size=32, resize=32).views("plain").prepare(image)[0], expected)


def test_global_crops_come_first_and_crops_have_the_published_areas() -> None:
    """The image is a ramp, so the range of the values of a crop shows its width."""
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 256, dtype=np.uint8)[None, :, None], (256, 1, 3)))
    views = ImageInput(statistics=UNIT).views("crops")
    assert views.n_views == 12
    widths = []
    for trial in range(20):
        with seeded(trial):
            crops = render(views, ramp)
        widths.append((crops.amax((1, 2, 3)) - crops.amin((1, 2, 3))).tolist())
    widths = np.array(widths)
    # Areas 0.25..1 and aspects 3/4..4/3 give widths of 0.43..1; areas 0.05..0.25 give 0.19..0.58. Resizing blurs a bit.
    assert widths[:, :2].min() > 0.40
    assert widths[:, 2:].max() < 0.60
    assert 0.17 < widths[:, 2:].min() < widths[:, :2].max() <= 1


def test_views_depend_only_on_seed_kind_and_sample() -> None:
    from fungi.data.base import open_split

    samples = open_split("digits", "test", Path())
    views = ImageInput(size=32, resize=32).views("crops")

    def views_of(rows: list[int], seed: int = 1) -> dict[int, torch.Tensor]:
        (batch,) = batches(samples, [views], [rows], seed=seed, num_workers=0)
        return dict(zip(rows, batch[views.identity], strict=True))

    alone, together, reordered = views_of([5]), views_of([3, 5, 9]), views_of([9, 5])
    assert torch.equal(alone[5], together[5])
    assert torch.equal(alone[5], reordered[5])
    assert torch.equal(together[9], reordered[9])
    assert not torch.equal(views_of([5], seed=2)[5], alone[5])
    assert not torch.equal(together[3], together[5])


def test_seeded_does_not_change_the_global_random_streams() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with seeded(1, "anything"):
        torch.rand(5)
        np.random.rand(5)
    assert torch.equal(torch.rand(3), expected)


def test_in_the_published_profile_only_crops_and_patches_have_the_statistics_of_imagenet() -> None:
    clean, published = ImageInput(statistics=HALF), ImageInput(statistics=HALF).with_imagenet_views()
    image = noise(64, 64)
    assert torch.equal(render(clean.views("plain"), image), render(published.views("plain"), image))
    mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in IMAGENET)
    with_imagenet = (render(clean.views("patches"), image) * 0.5 + 0.5 - mean) / deviation
    torch.testing.assert_close(render(published.views("patches"), image), with_imagenet, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("patch", {}, "unknown kind of vision views 'patch'"),
        (
            "patches",
            {"girth": 2},
            "views 'patches' have no option 'girth'. They have: grid, patch_side, per_side, stride_scale",
        ),
        (
            "patches",
            {"stride_scale": 500},
            "can't be moved in 500 steps: grid 2 .*Set stride_scale to a number from 1 to 112",
        ),
        (
            "patches",
            {"stride_scale": 0},
            "can't be moved in 0 steps: grid 2 .*Set stride_scale to a number from 1 to 112",
        ),
        ("patches", {"patch_side": 3}, "patch_side 3 and stride_scale 6 don't fit 224 pixels"),
        ("patches", {"grid": 225, "per_side": 2}, "grid is 225, but has to be from 1 to 224"),
        (
            "crops",
            {"global_area": (0.9, 0.1)},
            r"global_area is \(0.9, 0.1\), but has to be the smallest and the largest",
        ),
        ("crops", {"local_area": (0.0, 0.0)}, "local_area is"),
        ("crops", {"local_area": (0.5, 1.5)}, "local_area is"),
        ("crops", {"augmentation": "moco"}, "augmentation 'moco' is not known"),
    ],
)
def test_the_message_names_unknown_kinds_and_impossible_options(
    kind: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(FungiError, match=message):
        ImageInput().views(kind, **options)


def test_the_full_augmentation_changes_colours_and_keeps_the_number_of_views() -> None:
    image = noise(64, 64)
    plain = ImageInput(size=32).views("crops")
    full = ImageInput(size=32).views("crops", augmentation="dino")
    with seeded(3):
        augmented = full.prepare(image)
    with seeded(3):
        cropped = plain.prepare(image)
    assert augmented.shape == cropped.shape
    assert not torch.equal(augmented, cropped)


def test_views_change_with_the_epoch_and_epoch_0_has_the_views_of_a_run_without_epochs() -> None:
    crops, image = ImageInput(size=32, resize=32).views("crops"), noise(60, 50)
    with seeded(42, "views", "crops", "a"):
        without_epochs = crops.prepare(image)
    first, *later = (prepare(crops, image, seed=42, sample_id="a", epoch=epoch) for epoch in range(3))
    assert torch.equal(first, without_epochs)
    assert torch.equal(prepare(crops, image, seed=42, sample_id="a", epoch=2), later[1])
    assert not torch.equal(first, later[0])
    assert not torch.equal(*later)
    samples = Samples(np.zeros(1, dtype=np.uint32), ["a"], lambda row: image)
    (loaded,) = batches(samples, [crops], [[0]], seed=42, num_workers=0, epoch=2)
    assert torch.equal(loaded[crops.identity][0], later[1])


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (32, 37), (448, 512), (7, 8)])
def test_images_are_resized_to_eight_sevenths_of_the_input_size(size: int, resize: int) -> None:
    assert ImageInput.square(size).resize == resize
    assert ImageInput.square(224).resized(size).resize == resize


def test_a_single_global_crop_is_blurred_like_the_first_and_local_crops_are_not_solarised() -> None:
    """Only the second global crop is solarised. With one global crop, view 1 is a local crop."""
    views = Crops(input=ImageInput(size=32, resize=32), global_crops=1, local_crops=2, augmentation="dino")
    steps_by_view = [views._transform(view).transforms for view in range(3)]
    assert not any(isinstance(step, v2.RandomSolarize) for steps in steps_by_view for step in steps)
    assert [steps[4].p for steps in steps_by_view] == [1.0, 0.5, 0.5]  # step 4 blurs with this probability


def test_the_radius_of_the_blur_is_between_0_1_and_2_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    radii: list[float] = []

    def record_radius(image, blur):
        radii.append(blur.radius)
        return image

    monkeypatch.setattr(Image.Image, "filter", record_radius)
    torch.manual_seed(0)
    for _ in range(400):
        _gaussian_blur(Image.new("RGB", (4, 4)))
    assert 0.1 <= min(radii) < 0.13
    assert 1.97 < max(radii) <= 2.0
