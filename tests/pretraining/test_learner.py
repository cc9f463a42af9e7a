"""A training step: what it changes, and what it does not depend on (spec udi 5, 9.3, 9.4)."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fungi.errors import FungiError
from fungi.pretraining.processes import World
from fungi.pretraining.udi.configuration import learner_options
from fungi.pretraining.udi.layers import Prototypes, SampledAttention
from fungi.pretraining.udi.learner import Learner, NonFiniteError
from fungi.pretraining.udi.network import Network, align
from fungi.pretraining.udi.views import Views
from tests.daily import slow_after_first
from tests.pretraining.small import first_batches, learner_of, schedule, settings

AXES = {"globals": 1, "locals": 1, "boxes": 1, "global_tokens": 0, "local_tokens": 0}
"""Fields of the views of a batch -> their axis of images."""


def parameters(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters of a network."""
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def test_a_step_moves_student_teacher_and_centres() -> None:
    run_settings = settings()
    learner = learner_of(run_settings)
    before = parameters(learner.student)
    for name, value in parameters(learner.teacher).items():
        assert torch.equal(value, before[name]), name
    (batch,) = first_batches(run_settings, 1)
    measured = learner.step(batch, schedule())
    after, teacher = parameters(learner.student), parameters(learner.teacher)
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged <= {"head.0.last_layer.weight_g"}
    for name, value in teacher.items():  # theta_t <- m theta_t + (1 - m) theta_s
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * after[name], rtol=1e-5, atol=1e-7, msg=name)
    assert (learner.centres.abs().amax(1) > 0).all()
    assert all(math.isfinite(value) for value in measured.values())
    assert {"g_cl", "g_mcl", "g_pch", "l_cl", "l_mcl", "loss", "entropy", "diversity"} <= set(measured)


@pytest.mark.parametrize(
    "options", slow_after_first([{}, {"drop_path_rate": 0.5}, {"use_bn_in_head": False, "target_mix": "probs"}])
)
def test_a_batch_in_parts_gives_the_same_step_as_the_batch(options) -> None:
    # AdamW divides gradients by their size. If a gradient is almost zero, the step of AdamW is only a rounding error.
    options = options | {"optimizer": "sgd"}
    undivided = settings(batch_size_per_gpu=8, **options)
    divided = settings(batch_size_per_gpu=2, accumulate_steps=4, **options)
    learners = [learner_of(run_settings) for run_settings in (undivided, divided)]
    for step in range(2):
        measured = [
            learner.step(first_batches(run_settings, 2)[step], schedule(step))
            for learner, run_settings in zip(learners, (undivided, divided), strict=True)
        ]
        assert measured[0] == pytest.approx(measured[1], rel=1e-5, abs=1e-5)
    for name, value in parameters(learners[0].student).items():
        torch.testing.assert_close(value, parameters(learners[1].student)[name], rtol=1e-4, atol=1e-6, msg=name)


class _ProcessAsThread(World):
    """One of two simulated processes. They are threads, and each sum waits for the other thread."""

    def __init__(self, rank: int, barrier: threading.Barrier, values_by_rank: dict[int, torch.Tensor]) -> None:
        super().__init__(rank, 2)
        object.__setattr__(self, "shared_state", (barrier, values_by_rank))

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        barrier, values_by_rank = self.shared_state
        values_by_rank[self.rank] = values.clone()
        barrier.wait(60)
        values.copy_(values_by_rank[0] + values_by_rank[1])
        barrier.wait(60)
        return values


def _two_processes(run_settings, halves, monkeypatch) -> list[tuple[dict[str, float], Learner]]:
    """Return measurements and learners of two processes after a step on half a batch each, with separate gradients."""
    monkeypatch.setattr(World, "shared", lambda self, model: model)
    barrier, values_by_rank = threading.Barrier(2), {}
    learners = [
        Learner(
            learner_options(run_settings),
            _ProcessAsThread(rank, barrier, values_by_rank),
            torch.device("cpu"),
            torch.float32,
        )
        for rank in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        measured = list(pool.map(lambda pair: pair[0].step([pair[1]], schedule()), zip(learners, halves, strict=True)))
    return list(zip(measured, learners, strict=True))


def test_processes_with_different_states_all_stop() -> None:
    barrier, values_by_rank = threading.Barrier(2), {}
    processes = [_ProcessAsThread(rank, barrier, values_by_rank) for rank in range(2)]

    def refusal(process: World, step: int) -> str:
        """Return the message of the error, or an empty text if the processes agree."""
        try:
            process.require_same_step(step, torch.device("cpu"), Path("run"))
        except FungiError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(refusal, processes, (7, 7))) == ["", ""]
        for text in pool.map(refusal, processes, (7, 0)):
            assert "different checkpoints in --output-dir run (after steps 7, 0)" in text


def test_batch_norm_of_several_processes_needs_gpus() -> None:
    with pytest.raises(FungiError, match="--use-bn-in-head with several processes needs GPUs"):
        Learner(
            learner_options(settings(use_bn_in_head=True)), World(rank=0, size=2), torch.device("cpu"), torch.float32
        )


@pytest.mark.parametrize("profile", ["clean", "published"])
def test_processes_average_over_all_valid_samples_or_over_the_means_of_processes(profile, monkeypatch) -> None:
    """Clean: the processes share one mean over all valid samples. Published: the mean of the means of the processes."""
    run_settings = settings(
        batch_size_per_gpu=4, profile=profile, drop_path_rate=0.0, clip_grad=0.0, local_crops_number=1
    )
    halves = [batch[0] for batch in first_batches(run_settings, 2)]
    halves[1].boxes[1, :, 2:] = halves[1].boxes[1, :, :2] + 2  # such a small view has few valid samples
    together = _two_processes(run_settings, halves, monkeypatch)
    gradients = {name: values.grad for name, values in together[0][1].student.named_parameters()}
    if profile == "published":
        alone = [learner_of(run_settings) for _ in halves]
        parts = [learner.step([half], schedule()) for learner, half in zip(alone, halves, strict=True)]
        assert parts[0]["g_pch"] != pytest.approx(parts[1]["g_pch"], rel=1e-3)
        loss = sum(part["g_pch"] for part in parts) / 2
        centres = sum(learner.centres for learner in alone) / 2
        gradients = {name: value for name, value in gradients.items() if "attn" in name}
        for name, value in gradients.items():  # those of the process's own half, before they are averaged
            expected = dict(alone[0].student.named_parameters())[name].grad
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-7, msg=name)
    else:
        single = learner_of(run_settings)
        joined = [torch.cat([getattr(half, name) for half in halves], axis) for name, axis in AXES.items()]
        loss = single.step([Views(*joined)], schedule())["g_pch"]
        centres = single.centres
    for measured, learner in together:
        assert measured["g_pch"] == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(learner.centres, centres, rtol=1e-4, atol=1e-6)


def test_stochastic_depth_changes_only_the_student() -> None:
    (batch,) = first_batches(settings(), 1)
    plain, dropped = learner_of(settings(drop_path_rate=0.0)), learner_of(settings(drop_path_rate=0.9))
    without_dropping, with_dropping = plain.step(batch, schedule()), dropped.step(batch, schedule())
    assert without_dropping["entropy"] == with_dropping["entropy"]  # the entropy of the teacher
    assert without_dropping["loss"] != with_dropping["loss"]


def test_srs_with_the_identity_is_attention_with_a_residual_and_a_norm() -> None:
    torch.manual_seed(0)
    layer, tokens = SampledAttention(width=12, heads=3), torch.randn(2, 5, 12)
    query, key, value = layer.qkv(tokens).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    mixed = torch.softmax(query @ key.transpose(-1, -2) / 2, -1) @ value
    expected = layer.norm(layer.proj(mixed.transpose(1, 2).flatten(2)) + tokens)
    torch.testing.assert_close(layer(tokens, torch.eye(5).expand(2, 5, 5)), expected, rtol=1e-4, atol=1e-5)


def test_queries_of_samples_are_interpolated_between_the_queries_of_tokens() -> None:
    """Queries are linear, so sampling tokens first and sampling queries later give the same numbers."""
    torch.manual_seed(0)
    layer, tokens = SampledAttention(width=12, heads=3), torch.randn(1, 5, 12)
    sampling = torch.rand(1, 4, 5)
    sampling = sampling / sampling.sum(-1, keepdim=True)
    query, key, value = layer.qkv(tokens).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    mixed = torch.softmax((sampling[:, None] @ query) @ key.transpose(-1, -2) / 2, -1) @ value
    expected = layer.norm(layer.proj(mixed.transpose(1, 2).flatten(2)) + sampling @ tokens)
    torch.testing.assert_close(layer(tokens, sampling), expected, rtol=1e-4, atol=1e-5)


def test_samples_outside_the_other_view_change_nothing() -> None:
    run_settings = settings(local_crops_number=0)
    (batch,) = first_batches(run_settings, 1)
    views = batch[0]
    valid = align(views, global_side=4, local_side=2).valid  # [2 b m]: requests of each view
    image, sample = (int(indices[0]) for indices in (~valid.any(0)).nonzero(as_tuple=True))
    learner, other_learner = learner_of(run_settings), learner_of(run_settings)
    tokens = views.global_tokens.clone()
    used_tokens = set(tokens[image].tolist())
    for token in sorted(set(range(16)) - used_tokens):
        tokens[image, sample] = token
        changed = type(views)(**(vars(views) | {"global_tokens": tokens}))
        if torch.equal(align(changed, global_side=4, local_side=2).valid, valid):
            break
    else:
        pytest.fail("no other token is outside of the other view")
    expected = other_learner.step([changed], schedule())
    assert learner.step(batch, schedule()) == pytest.approx(expected, rel=1e-6)


def test_a_batch_without_any_valid_sample_has_a_finite_loss() -> None:
    run_settings = settings()
    (batch,) = first_batches(run_settings, 1)
    without_extent = type(batch[0])(**(vars(batch[0]) | {"boxes": torch.zeros_like(batch[0].boxes)}))
    learner = learner_of(run_settings)
    measured = learner.step([without_extent], schedule())
    assert measured["g_pch"] == 0
    assert all(math.isfinite(value) for value in measured.values())
    assert learner.centres.isfinite().all()
    assert (learner.centres[2] == 0).all()


def test_a_loss_that_is_not_finite_stops_the_step_before_it_changes_weights() -> None:
    run_settings = settings()
    learner = learner_of(run_settings)
    (batch,) = first_batches(run_settings, 1)
    learner.student.backbone.norm1.weight.data[0] = float("nan")
    before, teacher = parameters(learner.student), parameters(learner.teacher)
    with pytest.raises(NonFiniteError, match="step 17: the loss is nan"):
        learner.step(batch, schedule(17))
    for network, old_values in ((learner.student, before), (learner.teacher, teacher)):
        for name, value in parameters(network).items():
            torch.testing.assert_close(value, old_values[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({"include_patch": False, "number_cls_token": 1}, {"g_cl", "l_cl"}),
        ({"number_cls_token": 1}, {"g_cl", "l_cl", "g_pch"}),
        ({"local_crops_number": 0}, {"g_cl", "g_mcl", "g_pch"}),
    ],
)
def test_the_mean_of_the_loss_leaves_out_levels_that_are_switched_off(options, levels) -> None:
    run_settings = settings(**options)
    (batch,) = first_batches(run_settings, 1)
    measured = learner_of(run_settings).step(batch, schedule())
    kinds = {kind: [measured[name] for name in levels if name.endswith(f"_{kind}")] for kind in ("cl", "mcl", "pch")}
    crops = run_settings.local_crops_number
    expected = []
    for kind, values in kinds.items():
        if kind == "pch" or not crops:
            expected += values
        elif values:
            expected.append((2 * measured[f"g_{kind}"] + 2 * crops * measured[f"l_{kind}"]) / (2 + 2 * crops))
    assert measured["loss"] == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert {name for name in measured if "_" in name} == levels


def test_the_network_has_the_published_number_of_parameters() -> None:
    """ViT-S/16: 21,666,432 in the backbone, 592,896 in SRS with its input norm, 22,352,128 in the head."""
    from fungi.pretraining.udi.choices import choose_architecture
    from fungi.pretraining.udi.network import NetworkOptions

    with torch.device("meta"):
        network = Network(NetworkOptions(architecture=choose_architecture("vit_small")))
    assert sum(values.numel() for values in network.backbone.backbone.parameters()) == 21_666_432
    assert sum(values.numel() for values in network.parameters()) == 44_611_456


@pytest.mark.slow
def test_a_student_learns_the_predictions_of_a_constant_teacher() -> None:
    """The smallest possible cross-entropy is the entropy of the teacher. Training on one batch halves the excess."""
    learner = learner_of(settings(drop_path_rate=0.0, center_momentum=1.0))
    batch = first_batches(settings(), 1)[0]
    excess = []
    for step in range(40):
        measured = learner.step(batch, schedule(step, rate=3e-3, teacher_momentum=1.0, weight_decay=0.0))
        excess.append(measured["loss"] - measured["entropy"])
    assert min(excess) >= 0
    assert excess[-1] < 0.5 * excess[0]


def test_prototypes_combine_the_direction_of_one_weight_with_the_length_of_another() -> None:
    prototypes = Prototypes(width=24, count=7, trained_length=True)
    prototypes.weight_g.data = torch.linspace(0.5, 3, 7)[:, None]
    vectors, lengths = prototypes.weight_v.detach().double().requires_grad_(), prototypes.weight_g.detach().double()
    expected = lengths * vectors / vectors.norm(dim=1, keepdim=True)
    torch.testing.assert_close(prototypes.weight.double(), expected, rtol=1e-5, atol=1e-6)
    output_gradient = torch.randn_like(vectors)
    (gradient,) = torch.autograd.grad((prototypes.weight * output_gradient).sum(), [prototypes.weight_v])
    (exact,) = torch.autograd.grad((expected * output_gradient).sum(), [vectors])
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=1e-5)
