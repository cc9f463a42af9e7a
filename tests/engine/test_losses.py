"""The losses against their definitions, written as loops over samples, views and entries."""

from math import exp, log

import pytest
import torch
from torch import Tensor

from fungi.objectives import OBJECTIVES
from fungi.objectives.base import random_linear
from fungi.objectives.binding import bind
from fungi.objectives.dino import self_distillation
from fungi.objectives.kl import kl_to_uniform
from fungi.objectives.simclr import info_nce
from fungi.views.image import ImageInput


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(values: list[float], temperature: float) -> list[float]:
    weights = [exp(v / temperature) for v in values]
    return [w / sum(weights) for w in weights]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_kl_is_the_divergence_from_the_uniform_distribution_in_either_direction() -> None:
    latents = draw(3, 5)
    for row, actual, reverse in zip(
        latents.tolist(), kl_to_uniform(latents, 2.0), kl_to_uniform(latents, 2.0, "pred_to_uniform"), strict=True
    ):
        p, u = softmax(row, 2.0), 1 / 5
        assert float(actual) == pytest.approx(sum(u * log(u / q) for q in p), rel=1e-9)
        assert float(reverse) == pytest.approx(sum(q * log(q / u) for q in p), rel=1e-9)


def test_kl_has_no_gradient_at_a_uniform_prediction() -> None:
    latents = torch.zeros(2, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(kl_to_uniform(latents, 15.0).sum(), latents)
    assert gradient.abs().max() < 1e-8


def test_both_directions_of_kl_have_nearly_the_same_gradient_at_temperature_fifteen() -> None:
    """Latents are like those of the head for a unit vector: entries of about 0.6 / sqrt(E)."""
    latents = (0.03 * draw(4, 768)).requires_grad_()
    gradients = [
        torch.autograd.grad(kl_to_uniform(latents, 15.0, direction).sum(), latents)[0]
        for direction in ("uniform_to_pred", "pred_to_uniform")
    ]
    assert torch.cosine_similarity(*gradients).min() > 0.99999


@pytest.mark.parametrize("skip", [False, True])
def test_dino_sums_the_cross_entropies_of_all_pairs(skip: bool) -> None:
    student, teacher = draw(2, 4, 6), draw(2, 2, 6, seed=1)
    actual = self_distillation(student, teacher, 0.5, 0.3, skip_same_view=skip)
    for b in range(2):
        total = 0.0
        for a in range(2):
            q = softmax(teacher[b, a].tolist(), 0.3)
            for v in range(4):
                p = softmax(student[b, v].tolist(), 0.5)
                total += 0.0 if skip and a == v else -sum(x * log(y) for x, y in zip(q, p, strict=True))
        assert float(actual[b]) == pytest.approx(total, rel=1e-6)


def test_dino_gives_no_gradient_to_the_teacher() -> None:
    student, teacher = draw(2, 4, 6).requires_grad_(), draw(2, 2, 6, seed=1).requires_grad_()
    loss = self_distillation(student, teacher, 0.1, 0.07).sum()
    assert torch.autograd.grad(loss, teacher, allow_unused=True)[0] is None


@pytest.mark.parametrize("divided", [True, False])
def test_info_nce_equals_its_definition(divided: bool) -> None:
    positives, negatives, temperature = draw(2, 4, 6), draw(5, 6, seed=1), 0.3
    actual = info_nce(positives, negatives, temperature, denominator_temperature=divided)
    scale = temperature if divided else 1.0
    for b, views in enumerate(positives):
        total = 0.0
        for i in range(4):
            others = [cosine(views[i], views[j]) for j in range(4) if j != i]
            repulsion = [cosine(views[i], n) for n in negatives]
            denominator = sum(exp(s / scale) for s in [*others, *repulsion])
            total += -sum(others) / 3 / temperature + log(denominator)
        assert float(actual[b]) == pytest.approx(total / 4, rel=1e-9)


def test_heads_have_the_default_range_of_pytorch_and_their_own_random_stream() -> None:
    head, again = random_linear(64, 500, 42, "kl"), random_linear(64, 500, 42, "kl")
    assert torch.equal(head.weight, again.weight)
    bound = 64**-0.5
    assert head.weight.abs().max() <= bound
    assert head.bias.abs().max() <= bound
    assert abs(float(head.weight.std()) - bound / 3**0.5) < 0.01 * bound
    assert not torch.equal(head.weight, random_linear(64, 500, 43, "kl").weight)
    assert not torch.equal(head.weight, random_linear(64, 500, 42, "simclr").weight)


@pytest.mark.parametrize(
    ("objective", "views", "latents"), [("kl", 1, [768]), ("dino", 12, [2048, 2048]), ("simclr", 49, [96])]
)
def test_objectives_have_the_published_sizes(objective: str, views: int, latents: list[int]) -> None:
    assert objective in OBJECTIVES
    bound = bind(objective, embedding_dim=8, input_spec=ImageInput(), seed=0)
    assert bound.views.n_views == views
    assert [head.out_features for head in bound.heads.values()] == latents


@pytest.mark.parametrize(
    ("options", "teachers"), [({}, 2), ({"global_crops": 3}, 3), ({"global_crops": 3, "teacher_views": 1}, 1)]
)
def test_all_global_crops_are_teacher_views_unless_their_number_is_set(options: dict, teachers: int) -> None:
    bound = bind("dino", embedding_dim=8, input_spec=ImageInput(size=16), seed=0, options=options)
    assert bound.objective.teacher_views == teachers
