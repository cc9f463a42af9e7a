"""The update after a gradient: clipping, LARS, weight decay, frozen layers, teacher and schedules (spec udi 5)."""

import copy
import math

import pytest
import torch

from fungi.pretraining.schedules import cosine, linear_then_constant
from fungi.pretraining.udi import optimisation
from tests.pretraining.small import first_batches, learner_of, schedule, settings
from tests.pretraining.test_learner import parameters


def test_momentum_one_keeps_the_teacher_and_momentum_zero_copies_the_student() -> None:
    learner = learner_of(settings(use_bn_in_head=True))
    student, teacher = learner.student, learner.teacher
    for parameter in student.parameters():
        parameter.data += 1
    student.head[0].mlp[1].running_mean += 1
    before, buffers = parameters(teacher), copy.deepcopy(dict(teacher.named_buffers()))
    optimisation.update_teacher(teacher, student, momentum=1.0)
    assert all(torch.equal(value, before[name]) for name, value in parameters(teacher).items())
    optimisation.update_teacher(teacher, student, momentum=0.0)
    assert all(torch.equal(value, parameters(student)[name]) for name, value in parameters(teacher).items())
    assert all(torch.equal(value, buffers[name]) for name, value in teacher.named_buffers())


def test_each_tensor_is_clipped_separately() -> None:
    small, large = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3, 3))
    small.grad, large.grad = torch.tensor([0.6, 0.8]), torch.full((3, 3), 4.0)
    assert float(optimisation.clip_each([[small], [large]], limit=3.0)) == pytest.approx(12)
    assert small.grad.norm() == pytest.approx(1.0)
    assert large.grad.norm() == pytest.approx(3.0, rel=1e-5)
    optimisation.clip_each([[large]], limit=0.0)  # no clipping
    assert large.grad.norm() == pytest.approx(3.0, rel=1e-5)


def test_both_class_tokens_are_clipped_as_one_tensor_like_in_the_published_layout() -> None:
    network = learner_of(settings()).student
    tensors = optimisation.published_tensors(network)
    assert sum(map(len, tensors)) == len(list(network.parameters())) == len(tensors) + 1
    (tokens,) = (parts for parts in tensors if len(parts) > 1)
    model = network.backbone.backbone
    assert tokens[0] is model.cls_token
    assert tokens[1] is model.reg_token
    for norm, part in zip((3.0, 4.0), tokens, strict=True):
        part.grad = torch.full_like(part, norm / part.numel() ** 0.5)
    assert float(optimisation.clip_each(tensors, limit=3.0)) == pytest.approx(5)
    assert [float(part.grad.norm()) for part in tokens] == pytest.approx([1.8, 2.4], rel=1e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_lars_takes_the_published_steps(weight_decay: float) -> None:
    """Updates of matrices are scaled by the LARS ratio with and without decay; both class tokens share a ratio."""
    network = learner_of(settings()).student.backbone.backbone.double()
    network.cls_token.data += 1  # so that the class tokens have different lengths
    parameters_by_name = dict(network.named_parameters())
    weights = {name: value.detach().clone() for name, value in parameters_by_name.items()}
    momenta = {name: torch.zeros_like(value) for name, value in weights.items()}
    optimizer = optimisation.build_optimizer("lars", network)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for value in parameters_by_name.values():
            value.grad = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        optimisation.set_rates(optimizer, rate=0.7, weight_decay=weight_decay)
        optimizer.step()
        updates = {
            name: parameters_by_name[name].grad + (weight.ndim > 1) * weight_decay * weight
            for name, weight in weights.items()
        }
        for name, weight in weights.items():
            published_tensor = ["cls_token", "reg_token"] if name in ("cls_token", "reg_token") else [name]
            weight_length, update_length = (
                math.sqrt(sum(float((values[part] ** 2).sum()) for part in published_tensor))
                for values in (weights, updates)
            )
            is_scaled = weight.ndim > 1 and weight_length > 0 and update_length > 0
            ratio = 0.001 * weight_length / update_length if is_scaled else 1
            momenta[name] = 0.9 * momenta[name] + updates[name] * ratio
        weights = {name: weight - 0.7 * momenta[name] for name, weight in weights.items()}
        for name, value in parameters_by_name.items():
            torch.testing.assert_close(value.detach(), weights[name], rtol=1e-10, atol=1e-12, msg=name)


def test_the_last_layer_does_not_change_while_it_is_frozen() -> None:
    run_settings = settings(norm_last_layer=False)
    learner = learner_of(run_settings)
    before = parameters(learner.student)
    (batch,) = first_batches(run_settings, 1)
    learner.step(batch, schedule(last_layer_frozen=True))
    frozen = {name for name, value in parameters(learner.student).items() if torch.equal(value, before[name])}
    assert frozen == {"head.0.last_layer.weight_g", "head.0.last_layer.weight_v"}
    learner.step(batch, schedule(1))
    assert not torch.equal(
        parameters(learner.student)["head.0.last_layer.weight_g"], before["head.0.last_layer.weight_g"]
    )


def test_class_tokens_and_positions_decay_and_biases_and_norms_do_not() -> None:
    network = learner_of(settings(norm_last_layer=False)).student
    decayed, undecayed = ({id(p) for p in group["params"]} for group in optimisation.parameter_groups(network))
    names = {name: id(parameter) for name, parameter in network.named_parameters()}
    for name in ("pos_embed", "cls_token", "reg_token", "patch_embed.proj.weight"):
        assert names[f"backbone.backbone.{name}"] in decayed
    assert names["head.0.last_layer.weight_g"] in decayed
    assert {names[name] for name in names if name.endswith(".bias") or "norm" in name} == undecayed


def test_schedules_have_the_specified_start_peak_and_end() -> None:
    rates = cosine(first=2.0, last=0.1, steps=100, warmup=10)
    assert rates[0] == 0
    assert rates[9] == rates.max() == 2.0
    assert rates[-1] == pytest.approx(0.1, abs=2e-3)
    decay, momentum = (cosine(first, last, steps=500) for first, last in ((0.04, 0.1), (0.996, 1.0)))
    assert (decay[0], momentum[0]) == (0.04, 0.996)
    assert (decay[-1], momentum[-1]) == pytest.approx((0.1, 1.0), abs=1e-5)
    assert linear_then_constant(0.04, 0.07, epochs=5, warmup=3).tolist() == pytest.approx(
        [0.04, 0.055, 0.07, 0.07, 0.07]
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_a_schedule_that_is_shorter_than_its_warm_up_has_a_value_for_each_step(steps: int) -> None:
    assert cosine(2.0, 0.1, steps, warmup=10).shape == (steps,)
    assert linear_then_constant(0.04, 0.07, steps, warmup=30)[0] == 0.04
    assert len(linear_then_constant(0.04, 0.07, steps, warmup=30)) == steps
