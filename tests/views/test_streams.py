"""Each objective has its own stream of random numbers for its views (spec vision 7.2)."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fungi.backbones.base import BACKBONES
from fungi.backbones.encoders import Encoded
from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.objectives import OBJECTIVES
from fungi.objectives.binding import BoundObjective, bind
from fungi.views.base import HasStream, NoViewsError
from fungi.views.image import ImageInput
from fungi.views.loading import prepare
from fungi.views.sound import SoundInput

LONG_TEXT = " ".join(f"word{number}" for number in range(200))
VISION = ImageInput(size=32, resize=32)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def sound() -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)


# Modality -> input of a backbone, and function that returns an item.
MODALITIES: dict[str, tuple[Any, Any]] = {
    "vision": (VISION, picture),
    "text": (BACKBONES["tiny-bert"].input, lambda: LONG_TEXT),
    "audio": (SoundInput(frames=64), sound),
}


def bound(name: str, modality: str = "vision", **options: Any) -> BoundObjective:
    """Return an objective for a modality. options: options of the objective or its views."""
    return bind(name, embedding_dim=4, input_spec=MODALITIES[modality][0], seed=1, options=options)


def objectives_with_random_views(modality: str) -> Iterator[BoundObjective]:
    """Yield the objectives of a modality whose views have a stream of random numbers."""
    for name in OBJECTIVES:
        with suppress(NoViewsError):
            objective = bound(name, modality)
            if isinstance(objective.views, HasStream):
                yield objective


def views_of(generator: Any, item: Any) -> list[bytes]:
    """Return the bytes of each view of an item, in order."""
    prepared = prepare(generator, item, seed=1, sample_id="sample")
    prepared = prepared["pixels"] if isinstance(prepared, dict) else prepared
    return [np.asarray(view[0] if isinstance(view, tuple) else view).tobytes() for view in prepared]


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_objective_has_its_own_stream(modality: str) -> None:
    streams = {objective.name: objective.views.stream for objective in objectives_with_random_views(modality)}
    assert streams == {name: name for name in streams}
    assert len({objective.views.identity for objective in objectives_with_random_views(modality)}) == len(streams)


def test_objectives_with_equal_crop_settings_draw_different_crops() -> None:
    equal_settings = {
        "global_area": (0.3, 0.9),
        "local_area": (0.1, 0.2),
        "interpolation": "bilinear",
        "local_crops": 2,
    }
    crops = {name: views_of(bound(name, **equal_settings).views, picture())[:4] for name in ("dino", "deepcluster")}
    crops |= {name: views_of(bound(name).views, picture())[:4] for name in ("ibot", "mim")}
    for name, other_name in combinations(crops, 2):
        assert not set(crops[name]) & set(crops[other_name]), (name, other_name)


# Modality, and options of SimCLR with which all views are random.
RANDOM_VIEWS = [
    ("vision", {"view_generator": "random-crops", "n_views": 3}),
    ("vision", {"view_generator": "default", "n_views": 3}),
    ("text", {}),
    ("audio", {}),
]


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(("modality", "options"), RANDOM_VIEWS)
def test_negatives_of_a_sample_differ_from_its_own_views(modality: str, options: dict[str, Any], exclude: bool) -> None:
    objective = bound("simclr", modality, exclude_self_from_negatives=exclude, **options)
    item = MODALITIES[modality][1]()
    own_views, support_views = views_of(objective.views, item), views_of(objective.support_views, item)
    before_negatives, negatives = support_views[:-2], support_views[-2:]
    assert len(own_views) == objective.views.n_views
    assert not set(own_views) & set(negatives)
    assert before_negatives == (own_views if exclude else []), "the own views are needed to recognise the sample"


@pytest.mark.parametrize(("modality", "options"), RANDOM_VIEWS)
def test_exclusion_of_a_sample_from_its_negatives_does_not_change_views(modality: str, options: dict[str, Any]) -> None:
    excluding, plain = (
        bound("simclr", modality, exclude_self_from_negatives=exclude, **options) for exclude in (True, False)
    )
    item = MODALITIES[modality][1]()
    assert views_of(excluding.support_views, item)[-2:] == views_of(plain.support_views, item)
    assert views_of(excluding.views, item) == views_of(plain.views, item)


def test_users_cannot_choose_the_stream() -> None:
    for option in ({"stream": "dino"}, {"skipped": 3}):
        with pytest.raises(FungiError, match="no option"):
            bound("simclr", view_generator="random-crops", n_views=2, **option)


def test_a_sample_is_recognised_by_its_views_and_excluded_from_its_negatives() -> None:
    torch.manual_seed(0)
    train = torch.randn(6, 3 + 2, 8)  # embeddings of each sample: of three own views, then of two views as a negative
    options = {"view_generator": "random-crops", "n_views": 3, "negative_samples": 6, "latent_dim": 4}
    samples = Samples(np.zeros(6, dtype=np.uint32), [str(row) for row in range(6)], load=lambda row: row)
    variants = []
    for exclude in (True, False):
        objective = bound("simclr", exclude_self_from_negatives=exclude, **options).objective
        heads = objective.heads(embedding_dim=8, seed=0)
        embeddings = train if exclude else train[:, 3:]

        def encode(selected: Samples, embeddings: torch.Tensor = embeddings) -> torch.Tensor:
            return embeddings[[int(sample_id) for sample_id in selected.ids]]

        support = objective.support(samples, encode, heads, seed=0)
        assert support["negatives"].shape == (12, 4)
        variants.append((objective, heads, support))
    (excluding, heads, support), (plain, _, _) = variants
    for row in range(6):
        negatives = torch.cat([plain.latents(train[other, 3:], heads["head"]) for other in range(6) if other != row])
        expected = plain.loss(Encoded(train[row, :3][None]), heads, {"negatives": negatives})
        torch.testing.assert_close(excluding.loss(Encoded(train[row, :3][None]), heads, support), expected)


def test_equal_supporting_data_have_equal_hashes() -> None:
    objective = bound("simclr")
    assert objective.support_hash == ""
    first, same, other = (objective.with_support({"negatives": torch.full((2, 3), value)}) for value in (1.0, 1.0, 2.0))
    assert first.support_hash == same.support_hash != other.support_hash
