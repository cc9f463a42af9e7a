"""Views at their own size have the published content, plans fit every backbone, and impossible sizes are refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from fungi.backbones.base import BACKBONES
from fungi.errors import FungiError
from fungi.objectives.binding import bind
from fungi.runtime.seeds import seeded
from fungi.views.base import forwards_of
from fungi.views.image import ImageInput
from fungi.views.plans import PLANS, ViewPlan

INPUT = ImageInput(size=32, resize=32)
FULL = ImageInput()


def picture(seed: int = 0) -> Image.Image:
    """Return a smooth picture of 70 x 50 pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((70, 50), Image.Resampling.BICUBIC)


def prepared(kind: str, input_spec: ImageInput = INPUT, **options: object) -> object:
    """Return the views of the picture in 8 bits, as a worker prepares them."""
    views = input_spec.views(kind, **options)
    with seeded(42, "views"):
        return views.prepare(picture())


def rendered(kind: str, input_spec: ImageInput = INPUT, **options: object) -> Tensor | list[Tensor]:
    """Return the rendered views of the picture, a list with a tensor per size if the views have own sizes."""
    views = input_spec.views(kind, **options)
    return views.render(views.collate([prepared(kind, input_spec, **options)]))


def test_patches_at_their_own_size_are_the_published_patches_before_enlargement() -> None:
    (patches,) = rendered("patches", view_size=16)
    published = rendered("patches")
    assert patches.shape == (81, 3, 16, 16)
    enlarged = interpolate(patches, (32, 32), mode="bicubic", antialias=True)
    torch.testing.assert_close(enlarged, published, rtol=1e-4, atol=1e-4)


def test_local_crops_at_their_own_size_have_the_published_boxes() -> None:
    published, views = prepared("crops"), prepared("crops", local_size=16)
    assert torch.equal(views["global"], published[:2])
    assert views["local"].shape == (10, 3, 16, 16)
    halved = interpolate(published[2:].float(), (16, 16), mode="bilinear", antialias=True)
    assert (halved - views["local"]).abs().mean() < 8  # of 255 grey levels: the content is the same


@pytest.mark.parametrize(("per_side", "side", "starts"), [(3, 20, (0, 6, 12)), (4, 20, (0, 4, 8, 12)), (2, 30, (0, 2))])
def test_patches_are_spread_evenly_from_edge_to_edge(per_side: int, side: int, starts: tuple[int, ...]) -> None:
    views = INPUT.views("patches", per_side=per_side, patch_side=side, view_size=side)
    assert views.starts == starts
    image = torch.arange(3 * 32 * 32, dtype=torch.uint8).reshape(1, 1, 3, 32, 32)
    (patches,) = views.render(image)
    image_view = INPUT.views("plain").render(image)
    expected = torch.cat([image_view[..., y : y + side, x : x + side] for y in starts for x in starts])
    torch.testing.assert_close(patches, expected)


def test_patches_with_uneven_distances_are_cut_at_their_starts() -> None:
    views = INPUT.views("patches", per_side=4, patch_side=16, view_size=16)
    assert views.starts == (0, 5, 11, 16)
    image = torch.arange(3 * 32 * 32, dtype=torch.uint8).reshape(1, 1, 3, 32, 32)
    image_view = INPUT.views("plain").render(image)
    expected = torch.cat([image_view[..., y : y + 16, x : x + 16] for y in views.starts for x in views.starts])
    torch.testing.assert_close(views.render(image)[0], expected)


@pytest.mark.parametrize("kind", ["random-crops", "default"])
def test_random_views_can_have_their_own_size(kind: str) -> None:
    (views,) = rendered(kind, n_views=3, view_size=16)
    assert views.shape == (3, 3, 16, 16)


def test_masked_crops_have_masks_only_on_the_first_global_crops() -> None:
    masked, local, unmasked = rendered("masked-crops", local_size=16, patch_size=4)
    full_size = rendered("masked-crops", patch_size=4)
    assert (masked["images"].shape[0], local["images"].shape, unmasked["images"].shape[0]) == (2, (10, 3, 16, 16), 2)
    assert masked["mask"].any()
    assert "mask" not in local
    assert not unmasked["mask"].any()
    assert torch.equal(masked["images"], full_size["images"][:2])
    assert torch.equal(masked["mask"], full_size["mask"][:2])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("patches", {"view_size": 48}, "view_size is 48 pixels.*has 32.*1 to 32"),
        ("patches", {"patch_side": 40}, "patch_side is 40 pixels"),
        ("patches", {"per_side": 1}, "per_side is 1, but has to be from 2 to 17"),
        ("patches", {"per_side": 30}, "per_side is 30, but has to be from 2 to 17"),
        ("crops", {"local_size": 33}, "local_size is 33 pixels"),
        ("crops", {"global_size": -1}, "global_size is -1 pixels"),
        ("masked-crops", {"local_size": 64}, "local_size is 64 pixels"),
        ("default", {"n_views": 2, "view_size": 64}, "view_size is 64 pixels"),
    ],
)
def test_the_message_names_an_impossible_size(kind: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(FungiError, match=message):
        INPUT.views(kind, **options)


def bound(name: str, plan: ViewPlan, **options: object) -> object:
    """Return an objective with a plan of views, at 224 pixels."""
    return bind(name, input_spec=FULL, embedding_dim=4, seed=0, plan=plan, options=options)


@pytest.mark.parametrize(("plan", "largest_cost"), [("native", 17.2), ("budget", 9.1)])
def test_a_plan_has_the_documented_cost_in_forwards(plan: str, largest_cost: float) -> None:
    objectives = [bound(name, ViewPlan(plan, 16)) for name in ("kl", "dino", "simclr")]
    published = [bound(name, ViewPlan()) for name in ("kl", "dino", "simclr")]
    assert sum(forwards_of(objective.views) for objective in published) == 62
    assert sum(forwards_of(objective.views) for objective in objectives) <= largest_cost
    assert [objective.plan for objective in published] == ["published"] * 3


@pytest.mark.parametrize("plan", PLANS[1:])
@pytest.mark.parametrize(("size", "patch"), [(224, 14), (224, 16), (224, 32), (384, 14), (32, 4), (518, 14), (240, 1)])
def test_sizes_of_a_plan_are_multiples_of_the_patch_size(plan: str, size: int, patch: int) -> None:
    arguments = {"embedding_dim": 4, "seed": 0, "plan": ViewPlan(plan, patch)}
    for name in ("dino", "simclr", "deepcluster"):
        objective = bind(name, input_spec=ImageInput.square(size), **arguments)
        assert objective.plan == plan
        assert all(view % patch == 0 and view <= size for view in objective.views.sizes if view != size)


def test_options_of_the_user_replace_options_of_the_plan_and_remove_the_name_of_the_plan() -> None:
    changed = bound("simclr", ViewPlan("native", 16), view_size=96)
    assert set(changed.views.sizes) == {96}
    assert changed.plan == "published"  # the provenance lists the options instead
    assert bound("dino", ViewPlan("native", 16), augmentation="dino").plan == "published"
    assert bound("simclr", ViewPlan("native", 16), temperature=0.1).plan == "native"


@pytest.mark.parametrize("plan", PLANS[1:])
def test_objectives_with_a_single_full_view_are_the_same_in_every_plan(plan: str) -> None:
    objective = bound("kl", ViewPlan(plan, 16))
    assert objective.plan == "published"
    assert objective.settings == bound("kl", ViewPlan()).settings


def test_texts_and_sounds_have_only_the_published_plan() -> None:
    for backbone in ("tiny-bert", "tiny-ssast"):
        arguments = {"embedding_dim": 4, "seed": 0, "input_spec": BACKBONES[backbone].input}
        native, published = (bind("simclr", plan=ViewPlan(name), **arguments) for name in ("native", "published"))
        assert native.settings == published.settings
        assert native.plan == "published"
