"""Options of objectives: a value is either refused with a message, or it gives views and a gradient."""

import dataclasses
from typing import Any

import pytest
import torch

from fungi.backbones.base import resolve_backbone
from fungi.backbones.encoders import Encoded
from fungi.config import DINOConfig
from fungi.errors import FungiError
from fungi.extraction.gradient_settings import parse_options
from fungi.objectives import OBJECTIVES
from fungi.objectives.binding import bind, configure
from fungi.views.base import NoViewsError
from tests.library.models import pictures, wrap

# Every option refuses at least one of these values.
INVALID_OR_RARE = (0, -1, 3, 0.5, float("nan"), "x", None, True, (0.9, 0.1))
OTHER_NAMES = {"global_crops": "teacher_views"}
"""Option -> the name in its messages. The number of teacher views follows the global crops, and is checked first."""
BACKBONES = ("digits-vit", "tiny-bert", "tiny-ssast")


def _cases() -> list[tuple[str, str, str]]:
    """Return (backbone, objective, option) for each option that an objective has in the modality of the backbone."""
    cases = []
    for backbone in BACKBONES:
        for name in OBJECTIVES:
            try:
                objective, views, _ = configure(name, resolve_backbone(backbone).input)
            except NoViewsError:
                continue
            options = [field.name for kind in (objective, views) for field in dataclasses.fields(kind) if field.init]
            cases += [(backbone, name, option) for option in options if option not in ("input", "stream")]
    return cases


def test_every_objective_has_options_of_pictures_and_every_modality_has_two_objectives() -> None:
    objectives = {backbone: {name for first, name, _ in _cases() if first == backbone} for backbone in BACKBONES}
    assert objectives == {
        "digits-vit": set(OBJECTIVES),
        "tiny-bert": {"kl", "simclr"},
        "tiny-ssast": {"kl", "simclr"},
    }


@pytest.mark.parametrize(("backbone", "name", "option"), _cases())
def test_every_option_refuses_invalid_values_with_a_message_that_names_the_option(
    backbone: str, name: str, option: str
) -> None:
    messages = [_refusal(backbone, name, {option: value}) for value in INVALID_OR_RARE]
    refusals = [message for message in messages if message]
    assert refusals, f"{option} accepts every value"
    names = (option, OTHER_NAMES.get(option, option))
    assert [message for message in refusals if not any(name in message for name in names)] == []


def _refusal(backbone: str, name: str, options: dict[str, Any]) -> str:
    """Return the message that refuses these options, or an empty text if the objective has views with them."""
    try:
        bound = bind(name, embedding_dim=8, input_spec=resolve_backbone(backbone).input, seed=0, options=options)
    except FungiError as error:
        return str(error)
    assert bound.views.n_views >= 1
    return ""


@pytest.mark.parametrize(
    "text",
    [
        *(f"dino.teacher_views={number}" for number in (0, -1, 13)),
        "mim.mask_ratio=0",
        "simclr.grid=0",
        "deepcluster.iterations=-1",
    ],
)
def test_values_without_a_gradient_or_a_meaning_are_refused(text: str) -> None:
    ((name, options),) = parse_options((text,)).items()
    (option,) = options
    with pytest.raises(FungiError, match=option):
        bind(name, embedding_dim=8, input_spec=resolve_backbone("digits-vit").input, seed=0, options=options)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_unknown_kind_of_views_is_refused_with_the_known_kinds(backbone: str) -> None:
    input_spec = resolve_backbone(backbone).input
    with pytest.raises(FungiError, match=r"option 'view_generator': unknown kind of \w+ views 'x'. Known: .*plain"):
        bind("simclr", embedding_dim=8, input_spec=input_spec, seed=0, options={"view_generator": "x"})


@pytest.mark.parametrize("teachers", [1, 2, 12])
def test_every_accepted_number_of_teacher_views_gives_a_gradient(teachers: int) -> None:
    options: dict[str, Any] = {"teacher_views": teachers}
    spec = resolve_backbone("digits-vit")
    objective = bind("dino", embedding_dim=8, input_spec=spec.input, seed=0, options=options)
    embeddings = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    objective.loss(Encoded(embeddings)).sum().backward()
    assert embeddings.grad is not None
    assert (embeddings.grad.abs().sum(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("options", [{"shared_head": True}, {"augmentation": "dino"}])
def test_the_options_of_table_15_change_the_gradients_of_dino(options: dict[str, Any]) -> None:
    images = pictures(2)
    plain, changed = (
        wrap(configs=[DINOConfig(local_crops=2, latent_dim=16, **chosen)])(images) for chosen in ({}, options)
    )
    assert torch.isfinite(changed).all()
    cosine = torch.nn.functional.cosine_similarity(plain, changed)
    assert (cosine < 0.999).all(), f"the option has no effect: cosine {cosine.tolist()}"


def test_a_shared_head_is_the_head_of_student_and_teacher() -> None:
    spec = resolve_backbone("digits-vit")
    heads = bind("dino", embedding_dim=8, input_spec=spec.input, seed=0, options={"shared_head": True}).heads
    assert heads["student"] is heads["teacher"]
