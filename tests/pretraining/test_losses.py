"""The three losses and the centres against a plain reading of them (spec udi 4; 9.4-4 to 9.4-6)."""

import dataclasses
import math

import pytest
import torch

from fungi.pretraining.udi import cross_entropy as chunks
from fungi.pretraining.udi.centres import collapse_warning, diversity, teacher_statistics, updated_centres, vector_sums
from fungi.pretraining.udi.losses import BatchCounts, LossOptions, Teacher, loss_parts, part_shares
from fungi.pretraining.udi.network import Predictions
from tests.pretraining.plain import alignment_of, drawn, plain_parts


def counts_of(teacher: Teacher) -> BatchCounts:
    images = teacher.predictions.classes.shape[2]
    return BatchCounts(images, teacher.alignment.valid[:, :, : teacher.samples].sum().double())


def leaves(student: Predictions) -> list[torch.Tensor]:
    return list(vars(student).values())


@pytest.mark.parametrize("target_mix", ["logits", "probs"])
@pytest.mark.parametrize("local_crops", [0, 1, 3])
@pytest.mark.parametrize("share_valid", [0.0, 0.6, 1.0])
def test_losses_and_gradients_equal_the_plain_version(target_mix, local_crops, share_valid, monkeypatch) -> None:
    monkeypatch.setattr(chunks, "TILE", 20)  # two rows at a time
    student, teacher = drawn(local_crops=local_crops, share_valid=share_valid, samples=4)
    options = LossOptions(alpha=0.3, target_mix=target_mix)
    loss, ours = loss_parts(student, teacher, counts_of(teacher), options)
    theirs = plain_parts(student, teacher, options)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-9, atol=1e-12, msg=name)
    assert len(ours) == (5 if local_crops else 3)
    total = (
        sum(
            (2 * theirs[f"g_{kind}"] + 2 * local_crops * theirs[f"l_{kind}"]) / (2 + 2 * local_crops)
            for kind in ("cl", "mcl")
        )
        + theirs["g_pch"]
    ) / 3
    shares = part_shares(list(ours), local_crops)
    mean = torch.stack([shares[name] * value for name, value in ours.items()]).sum()
    torch.testing.assert_close(loss, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss, total, rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad(total, leaves(student), allow_unused=True, materialize_grads=True)
    found = torch.autograd.grad(loss, leaves(student), allow_unused=True, materialize_grads=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_losses_add_up_over_parts_of_a_batch() -> None:
    """What gradient accumulation and several processes rest on."""
    student, teacher = drawn(images=5)
    counts, options = counts_of(teacher), LossOptions()
    whole, _ = loss_parts(student, teacher, counts, options)

    def part(rows: slice) -> torch.Tensor:
        def cut(p: Predictions) -> Predictions:
            return Predictions(p.classes[:, :, rows], p.local_classes[:, :, rows], p.patches[:, rows], p.prototypes)

        alignment = alignment_of(teacher.alignment.valid[:, rows], teacher.samples)
        seen = dataclasses.replace(teacher, predictions=cut(teacher.predictions), alignment=alignment)
        return loss_parts(cut(student), seen, counts, options)[0]

    torch.testing.assert_close(part(slice(0, 2)) + part(slice(2, 5)), whole, rtol=1e-12, atol=0)


def test_a_uniform_student_has_the_loss_ln_k_in_every_part() -> None:
    student, teacher = drawn(prototypes=11)
    blind = dataclasses.replace(student, prototypes=torch.zeros_like(student.prototypes))
    for name, value in loss_parts(blind, teacher, counts_of(teacher), LossOptions())[1].items():
        assert float(value.detach()) == pytest.approx(math.log(11), rel=1e-12), name


def test_a_view_is_never_matched_with_itself() -> None:
    """The teacher is certain of prototype 0 for view 0, and of prototype 1 for view 1."""
    student, teacher = drawn(images=1, width=7, prototypes=7, local_crops=0)
    axes = torch.eye(7, dtype=torch.float64)
    seen = teacher.predictions.classes.clone()
    seen[:, 0], seen[:, 1] = axes[0], axes[1]
    own = seen.flip(1)  # right only where each view predicts the other
    sure = dataclasses.replace(
        teacher,
        predictions=Predictions(seen, teacher.predictions.local_classes, teacher.predictions.patches, axes),
        centres=torch.zeros(3, 7, dtype=torch.float64),
        temperature=0.01,
    )

    def image_loss(classes: torch.Tensor) -> float:
        _, parts = loss_parts(
            dataclasses.replace(student, classes=classes, prototypes=axes),
            sure,
            counts_of(sure),
            LossOptions(student_temperature=0.01),
        )
        return float(parts["g_cl"])

    assert image_loss(own) < 1e-6
    assert image_loss(seen) == pytest.approx(100, rel=1e-3)


def test_alpha_zero_leaves_the_class_token_and_alpha_one_the_patches() -> None:
    _, teacher = drawn()
    torch.testing.assert_close(teacher.blended_vectors(None, 0.0), teacher.predictions.classes[0])
    other = dataclasses.replace(
        teacher, predictions=dataclasses.replace(teacher.predictions, classes=-teacher.predictions.classes)
    )
    torch.testing.assert_close(teacher.blended_vectors(0, 1.0), other.blended_vectors(0, 1.0))


def test_centres_are_means_of_raw_logits() -> None:
    _, teacher = drawn(local_crops=2)
    seen, options = teacher.predictions, LossOptions(alpha=0.4)
    logits = seen.patches @ seen.prototypes.T
    cls = seen.classes[0] @ seen.prototypes.T
    valid = teacher.alignment.valid
    blends = []
    for start, stop in ((0, 4), (4, 6), (6, 8)):
        o = valid[:, :, start:stop].double()
        mean = (logits[:, :, start:stop] * o[..., None]).sum(2) / (o.sum(-1, keepdim=True) + 1e-5)
        blends.append(0.4 * mean + 0.6 * cls)
    expected = torch.stack([cls.mean((0, 1)), torch.stack(blends).mean((0, 1, 2)), logits[valid].mean(0)])
    sums, counts = vector_sums(teacher, options)
    assert counts.tolist() == [6, 18, float(valid.sum())]
    moved = updated_centres(teacher.centres, sums / counts[:, None], counts, seen.prototypes, momentum=0.9)
    torch.testing.assert_close(moved, 0.9 * teacher.centres + 0.1 * expected, rtol=1e-6, atol=1e-9)


def test_a_centre_without_valid_vectors_does_not_change() -> None:
    _, teacher = drawn(share_valid=0.0)
    sums, counts = vector_sums(teacher, LossOptions())
    moved = updated_centres(
        teacher.centres, sums / counts.clamp_min(1)[:, None], counts, teacher.predictions.prototypes, momentum=0.9
    )
    assert torch.equal(moved[2], teacher.centres[2])
    assert not torch.equal(moved[0], teacher.centres[0])


def test_collapsed_uniform_and_healthy_teachers_are_distinguished() -> None:
    _, teacher = drawn(images=200, prototypes=40, width=30)

    def complaint(of: Teacher) -> str:
        entropy, predictions = (one / 400 for one in teacher_statistics(of))
        return collapse_warning(float(entropy), float(diversity(entropy, predictions)), 40)

    same = dataclasses.replace(
        teacher.predictions, classes=teacher.predictions.classes[:, :1, :1].expand(2, 2, 200, -1)
    )
    assert complaint(teacher) == ""
    assert "collapsed" in complaint(dataclasses.replace(teacher, predictions=same, temperature=0.5))
    assert "uniform" in complaint(
        dataclasses.replace(teacher, temperature=100.0, centres=torch.zeros_like(teacher.centres))
    )
    assert "single prototype" in complaint(dataclasses.replace(teacher, temperature=1e-3))
