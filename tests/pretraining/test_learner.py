"""A step of training: what moves, what does not, and what it may not depend on (spec udi 5; 9.3, 9.4)."""

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
from tests.daily import first_fast
from tests.pretraining.small import first_batches, learner_of, schedule, settings

AXES = {"globals": 1, "locals": 1, "boxes": 1, "global_tokens": 0, "local_tokens": 0}
"""Fields of a batch's views -> the axis of images."""


def parameters(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in network.named_parameters()}


def test_a_step_moves_student_teacher_and_centres() -> None:
    run_settings = settings()
    learner = learner_of(run_settings)
    before = parameters(learner.student)
    for name, value in parameters(learner.teacher).items():
        assert torch.equal(value, before[name]), name
    (batch,) = first_batches(run_settings, 1)
    measured = learner.step(batch, schedule())
    after, teacher = parameters(learner.student), parameters(learner.teacher)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still <= {"head.0.last_layer.weight_g"}
    for name, value in teacher.items():  # theta_t <- m theta_t + (1 - m) theta_s
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * after[name], rtol=1e-5, atol=1e-7, msg=name)
    assert (learner.centres.abs().amax(1) > 0).all()
    assert all(math.isfinite(value) for value in measured.values())
    assert {"g_cl", "g_mcl", "g_pch", "l_cl", "l_mcl", "loss", "entropy", "diversity"} <= set(measured)


@pytest.mark.parametrize(
    "options", first_fast([{}, {"drop_path_rate": 0.5}, {"use_bn_in_head": False, "target_mix": "probs"}])
)
def test_a_batch_in_parts_gives_the_step_of_the_whole_batch(options) -> None:
    options = options | {"optimizer": "sgd"}  # a step of AdamW is a ratio of gradients: of rounding, where they vanish
    whole = settings(batch_size_per_gpu=8, **options)
    parts = settings(batch_size_per_gpu=2, accumulate_steps=4, **options)
    learners = [learner_of(run_settings) for run_settings in (whole, parts)]
    for step in range(2):
        measured = [
            learner.step(first_batches(run_settings, 2)[step], schedule(step))
            for learner, run_settings in zip(learners, (whole, parts), strict=True)
        ]
        assert measured[0] == pytest.approx(measured[1], rel=1e-5, abs=1e-5)
    for name, value in parameters(learners[0].student).items():
        torch.testing.assert_close(value, parameters(learners[1].student)[name], rtol=1e-4, atol=1e-6, msg=name)


class _Member(World):
    """One of two processes that are threads here, for one step: sums wait for each other."""

    def __init__(self, rank: int, barrier: threading.Barrier, said: dict[int, torch.Tensor]) -> None:
        super().__init__(rank, 2)
        object.__setattr__(self, "meeting", (barrier, said))

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        barrier, said = self.meeting
        said[self.rank] = values.clone()
        barrier.wait(60)
        values.copy_(said[0] + said[1])
        barrier.wait(60)
        return values


def _two_processes(run_settings, halves, monkeypatch) -> list[tuple[dict[str, float], Learner]]:
    """A step of two processes with half a batch each; gradients stay where they were found."""
    monkeypatch.setattr(World, "shared", lambda self, model: model)
    barrier, said = threading.Barrier(2), {}
    learners = [
        Learner(learner_options(run_settings), _Member(rank, barrier, said), torch.device("cpu"), torch.float32)
        for rank in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        measured = list(pool.map(lambda pair: pair[0].step([pair[1]], schedule()), zip(learners, halves, strict=True)))
    return list(zip(measured, learners, strict=True))


def test_processes_that_find_unlike_states_stop_all_together() -> None:
    barrier, said = threading.Barrier(2), {}
    members = [_Member(rank, barrier, said) for rank in range(2)]

    def refusal(member: World, step: int) -> str:
        try:
            member.agree(step, torch.device("cpu"), Path("run"))
        except FungiError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(refusal, members, (7, 7))) == ["", ""]
        for text in pool.map(refusal, members, (7, 0)):
            assert "different checkpoints in --output-dir run (after steps 7, 0)" in text


def test_batch_norm_of_several_processes_needs_gpus() -> None:
    with pytest.raises(FungiError, match="--use-bn-in-head with several processes needs GPUs"):
        Learner(learner_options(settings(use_bn_in_head=True)), World(0, 2), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("profile", ["clean", "published"])
def test_processes_count_valid_samples_together_or_in_the_published_way_each_for_itself(profile, monkeypatch) -> None:
    """Published: every process's mean of the patch loss, and of the centres, counts alike. Clean: one batch."""
    run_settings = settings(
        batch_size_per_gpu=4, profile=profile, drop_path_rate=0.0, clip_grad=0.0, local_crops_number=1
    )
    halves = [batch[0] for batch in first_batches(run_settings, 2)]
    halves[1].boxes[1, :, 2:] = halves[1].boxes[1, :, :2] + 2  # few samples lie in such a view
    together = _two_processes(run_settings, halves, monkeypatch)
    found = {name: values.grad for name, values in together[0][1].student.named_parameters()}
    if profile == "published":
        alone = [learner_of(run_settings) for _ in halves]
        parts = [learner.step([half], schedule()) for learner, half in zip(alone, halves, strict=True)]
        assert parts[0]["g_pch"] != pytest.approx(parts[1]["g_pch"], rel=1e-3)
        loss = sum(part["g_pch"] for part in parts) / 2
        centres = sum(learner.centres for learner in alone) / 2
        found = {name: value for name, value in found.items() if "attn" in name}
        for name, value in found.items():  # the process's own half of the mean
            expected = dict(alone[0].student.named_parameters())[name].grad
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-7, msg=name)
    else:
        whole = learner_of(run_settings)
        joined = [torch.cat([getattr(half, name) for half in halves], axis) for name, axis in AXES.items()]
        loss = whole.step([Views(*joined)], schedule())["g_pch"]
        centres = whole.centres
    for measured, learner in together:
        assert measured["g_pch"] == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(learner.centres, centres, rtol=1e-4, atol=1e-6)


def test_stochastic_depth_changes_the_student_alone() -> None:
    (batch,) = first_batches(settings(), 1)
    plain, dropped = learner_of(settings(drop_path_rate=0.0)), learner_of(settings(drop_path_rate=0.9))
    one, other = plain.step(batch, schedule()), dropped.step(batch, schedule())
    assert one["entropy"] == other["entropy"]
    assert one["loss"] != other["loss"]


def test_srs_with_the_identity_is_attention_with_a_residual_and_a_norm() -> None:
    torch.manual_seed(0)
    layer, tokens = SampledAttention(12, 3), torch.randn(2, 5, 12)
    query, key, value = layer.qkv(tokens).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    mixed = torch.softmax(query @ key.transpose(-1, -2) / 2, -1) @ value
    expected = layer.norm(layer.proj(mixed.transpose(1, 2).flatten(2)) + tokens)
    torch.testing.assert_close(layer(tokens, torch.eye(5).expand(2, 5, 5)), expected, rtol=1e-4, atol=1e-5)


def test_queries_are_interpolated_between_tokens() -> None:
    """Sampling tokens and then forming queries is forming queries and then sampling them."""
    torch.manual_seed(0)
    layer, tokens = SampledAttention(12, 3), torch.randn(1, 5, 12)
    sampling = torch.rand(1, 4, 5)
    sampling = sampling / sampling.sum(-1, keepdim=True)
    query, key, value = layer.qkv(tokens).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    mixed = torch.softmax((sampling[:, None] @ query) @ key.transpose(-1, -2) / 2, -1) @ value
    expected = layer.norm(layer.proj(mixed.transpose(1, 2).flatten(2)) + sampling @ tokens)
    torch.testing.assert_close(layer(tokens, sampling), expected, rtol=1e-4, atol=1e-5)


def test_samples_without_a_place_in_the_other_view_change_nothing() -> None:
    run_settings = settings(local_crops_number=0)
    (batch,) = first_batches(run_settings, 1)
    views = batch[0]
    valid = align(views, 4, 2).valid  # [2 b m]: of view b's requests
    image, sample = (int(one[0]) for one in (~valid.any(0)).nonzero(as_tuple=True))
    one, other = learner_of(run_settings), learner_of(run_settings)
    moved = views.global_tokens.clone()
    taken = set(moved[image].tolist())
    for token in sorted(set(range(16)) - taken):
        moved[image, sample] = token
        changed = type(views)(**(vars(views) | {"global_tokens": moved}))
        if torch.equal(align(changed, 4, 2).valid, valid):
            break
    else:
        pytest.fail("no other token is outside of the other view")
    assert one.step(batch, schedule()) == pytest.approx(other.step([changed], schedule()), rel=1e-6)


def test_a_batch_without_any_valid_sample_has_a_finite_loss() -> None:
    run_settings = settings()
    (batch,) = first_batches(run_settings, 1)
    nowhere = type(batch[0])(**(vars(batch[0]) | {"boxes": torch.zeros_like(batch[0].boxes)}))
    learner = learner_of(run_settings)
    measured = learner.step([nowhere], schedule())
    assert measured["g_pch"] == 0
    assert all(math.isfinite(value) for value in measured.values())
    assert learner.centres.isfinite().all()
    assert (learner.centres[2] == 0).all()


def test_a_loss_that_is_no_number_names_the_step_and_moves_nothing() -> None:
    run_settings = settings()
    learner = learner_of(run_settings)
    (batch,) = first_batches(run_settings, 1)
    learner.student.backbone.norm1.weight.data[0] = float("nan")
    before, teacher = parameters(learner.student), parameters(learner.teacher)
    with pytest.raises(NonFiniteError, match="step 17: the loss is nan"):
        learner.step(batch, schedule(17))
    for network, old in ((learner.student, before), (learner.teacher, teacher)):
        for name, value in parameters(network).items():
            torch.testing.assert_close(value, old[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({"include_patch": False, "number_cls_token": 1}, {"g_cl", "l_cl"}),
        ({"number_cls_token": 1}, {"g_cl", "l_cl", "g_pch"}),
        ({"local_crops_number": 0}, {"g_cl", "g_mcl", "g_pch"}),
    ],
)
def test_levels_that_are_switched_off_are_left_out_of_the_mean(options, levels) -> None:
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
    assert sum(one.numel() for one in network.backbone.backbone.parameters()) == 21_666_432
    assert sum(one.numel() for one in network.parameters()) == 44_611_456


@pytest.mark.slow
def test_a_student_learns_what_a_teacher_that_stays_as_it_is_predicts() -> None:
    """Over one batch: of what cross-entropy has above the teacher's entropy, which is the least it can be."""
    learner = learner_of(settings(drop_path_rate=0.0, center_momentum=1.0))
    batch = first_batches(settings(), 1)[0]
    excess = []
    for step in range(40):
        measured = learner.step(batch, schedule(step, rate=3e-3, teacher_momentum=1.0, weight_decay=0.0))
        excess.append(measured["loss"] - measured["entropy"])
    assert min(excess) >= 0
    assert excess[-1] < 0.5 * excess[0]


def test_prototypes_have_the_direction_of_one_weight_and_the_length_of_the_other() -> None:
    prototypes = Prototypes(24, 7, trained_length=True)
    prototypes.weight_g.data = torch.linspace(0.5, 3, 7)[:, None]
    given, lengths = prototypes.weight_v.detach().double().requires_grad_(), prototypes.weight_g.detach().double()
    expected = lengths * given / given.norm(dim=1, keepdim=True)
    torch.testing.assert_close(prototypes.weight.double(), expected, rtol=1e-5, atol=1e-6)
    asked = torch.randn_like(given)
    (found,) = torch.autograd.grad((prototypes.weight * asked).sum(), [prototypes.weight_v])
    (exact,) = torch.autograd.grad((expected * asked).sum(), [given])
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)
