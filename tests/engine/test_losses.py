"""Compare the losses with their definitions, written as loops over samples, views and entries."""

from itertools import product
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
    """Return random numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(values: list[float], temperature: float) -> list[float]:
    weights = [exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_kl_is_the_divergence_from_the_uniform_distribution_in_either_direction() -> None:
    latents = draw(3, 5)
    from_uniform = kl_to_uniform(latents, temperature=2.0)
    to_uniform = kl_to_uniform(latents, temperature=2.0, direction="pred_to_uniform")
    uniform = 1 / 5
    for row, latent in enumerate(latents.tolist()):
        probabilities = softmax(latent, 2.0)
        assert float(from_uniform[row]) == pytest.approx(
            sum(uniform * log(uniform / p) for p in probabilities), rel=1e-9
        )
        assert float(to_uniform[row]) == pytest.approx(sum(p * log(p / uniform) for p in probabilities), rel=1e-9)


def test_kl_has_no_gradient_at_a_uniform_prediction() -> None:
    latents = torch.zeros(2, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(kl_to_uniform(latents, temperature=15.0).sum(), latents)
    assert gradient.abs().max() < 1e-8


def test_both_directions_of_kl_have_nearly_the_same_gradient_at_temperature_fifteen() -> None:
    # The head gives latents of about 0.6 / sqrt(d) for an embedding of norm 1.
    latents = (0.03 * draw(4, 768)).requires_grad_()
    gradients = [
        torch.autograd.grad(kl_to_uniform(latents, temperature=15.0, direction=direction).sum(), latents)[0]
        for direction in ("uniform_to_pred", "pred_to_uniform")
    ]
    assert torch.cosine_similarity(*gradients).min() > 0.99999


@pytest.mark.parametrize("skip", [False, True])
def test_dino_sums_the_cross_entropies_of_all_pairs(skip: bool) -> None:
    student, teacher = draw(2, 4, 6), draw(2, 2, 6, seed=1)
    actual = self_distillation(student, teacher, student_temperature=0.5, teacher_temperature=0.3, skip_same_view=skip)
    for sample in range(2):
        total = 0.0
        for teacher_view, student_view in product(range(2), range(4)):
            if skip and teacher_view == student_view:
                continue
            p_teacher = softmax(teacher[sample, teacher_view].tolist(), 0.3)
            p_student = softmax(student[sample, student_view].tolist(), 0.5)
            total += -sum(target * log(prediction) for target, prediction in zip(p_teacher, p_student, strict=True))
        assert float(actual[sample]) == pytest.approx(total, rel=1e-6)


def test_dino_gives_no_gradient_to_the_teacher() -> None:
    student, teacher = draw(2, 4, 6).requires_grad_(), draw(2, 2, 6, seed=1).requires_grad_()
    loss = self_distillation(student, teacher, student_temperature=0.1, teacher_temperature=0.07).sum()
    assert torch.autograd.grad(loss, teacher, allow_unused=True)[0] is None


@pytest.mark.parametrize("denominator_temperature", [True, False])
def test_info_nce_equals_its_definition(denominator_temperature: bool) -> None:
    positives, negatives, temperature = draw(2, 4, 6), draw(5, 6, seed=1), 0.3
    actual = info_nce(positives, negatives, temperature, denominator_temperature=denominator_temperature)
    scale = temperature if denominator_temperature else 1.0
    for sample, views in enumerate(positives):
        total = 0.0
        for i in range(4):
            to_positives = [cosine(views[i], views[j]) for j in range(4) if j != i]
            to_negatives = [cosine(views[i], negative) for negative in negatives]
            denominator = sum(exp(similarity / scale) for similarity in [*to_positives, *to_negatives])
            total += -sum(to_positives) / 3 / temperature + log(denominator)
        assert float(actual[sample]) == pytest.approx(total / 4, rel=1e-9)


def test_heads_have_the_default_range_of_pytorch_and_depend_on_seed_and_name() -> None:
    head, equal_head = random_linear(64, 500, 42, "kl"), random_linear(64, 500, 42, "kl")
    assert torch.equal(head.weight, equal_head.weight)
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
    ("options", "teacher_views"), [({}, 2), ({"global_crops": 3}, 3), ({"global_crops": 3, "teacher_views": 1}, 1)]
)
def test_all_global_crops_are_teacher_views_unless_their_number_is_set(options: dict, teacher_views: int) -> None:
    bound = bind("dino", embedding_dim=8, input_spec=ImageInput(size=16), seed=0, options=options)
    assert bound.objective.teacher_views == teacher_views
