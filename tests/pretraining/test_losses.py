"""The three losses and the centres, compared with the loops in `simple_losses.py`.

Source: spec udi 4, and tests 4 to 6 of section 9.4.
"""

import dataclasses
import math

import pytest
import torch

from fungi.pretraining.udi import cross_entropy
from fungi.pretraining.udi.centres import collapse_warning, diversity, teacher_statistics, updated_centres, vector_sums
from fungi.pretraining.udi.losses import BatchCounts, LossOptions, Teacher, loss_parts, part_shares
from fungi.pretraining.udi.network import Predictions
from tests.pretraining.simple_losses import alignment_of, random_predictions, simple_parts


def counts_of(teacher: Teacher) -> BatchCounts:
    """Return the numbers of images and of valid samples of a batch."""
    images = teacher.predictions.classes.shape[2]
    return BatchCounts(images, teacher.alignment.valid[:, :, : teacher.samples].sum().double())


def leaves(student: Predictions) -> list[torch.Tensor]:
    """Return the tensors of a student, with respect to which gradients are computed."""
    return list(vars(student).values())


@pytest.mark.parametrize("target_mix", ["logits", "probs"])
@pytest.mark.parametrize("local_crops", [0, 1, 3])
@pytest.mark.parametrize("share_valid", [0.0, 0.6, 1.0])
def test_losses_and_gradients_equal_a_simple_version(target_mix, local_crops, share_valid, monkeypatch) -> None:
    monkeypatch.setattr(cross_entropy, "TILE", 20)  # logits: two rows of 7 prototypes at a time
    student, teacher = random_predictions(local_crops=local_crops, share_valid=share_valid, samples=4)
    options = LossOptions(alpha=0.3, target_mix=target_mix)
    loss, parts = loss_parts(student, teacher, counts_of(teacher), options)
    expected_parts = simple_parts(student, teacher, options)
    for name, value in parts.items():
        torch.testing.assert_close(value, expected_parts[name], rtol=1e-9, atol=1e-12, msg=name)
    assert len(parts) == (5 if local_crops else 3)
    views = 2 + 2 * local_crops
    class_token_losses = [
        (2 * expected_parts[f"g_{kind}"] + 2 * local_crops * expected_parts[f"l_{kind}"]) / views
        for kind in ("cl", "mcl")
    ]
    total = (sum(class_token_losses) + expected_parts["g_pch"]) / 3
    shares = part_shares(list(parts), local_crops)
    mean = torch.stack([shares[name] * value for name, value in parts.items()]).sum()
    torch.testing.assert_close(loss, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(loss, total, rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad(total, leaves(student), allow_unused=True, materialize_grads=True)
    gradients = torch.autograd.grad(loss, leaves(student), allow_unused=True, materialize_grads=True)
    for gradient, expected_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-12)


def test_losses_of_the_parts_of_a_batch_add_up() -> None:
    """Gradient accumulation and training with several processes depend on this law."""
    student, teacher = random_predictions(images=5)
    counts, options = counts_of(teacher), LossOptions()
    undivided, _ = loss_parts(student, teacher, counts, options)

    def loss_of(rows: slice) -> torch.Tensor:
        def select(p: Predictions) -> Predictions:
            return Predictions(p.classes[:, :, rows], p.local_classes[:, :, rows], p.patches[:, rows], p.prototypes)

        alignment = alignment_of(teacher.alignment.valid[:, rows], teacher.samples)
        part = dataclasses.replace(teacher, predictions=select(teacher.predictions), alignment=alignment)
        return loss_parts(select(student), part, counts, options)[0]

    torch.testing.assert_close(loss_of(slice(0, 2)) + loss_of(slice(2, 5)), undivided, rtol=1e-12, atol=0)


def test_parts_of_the_loss_of_a_uniform_student_are_the_logarithm_of_the_number_of_prototypes() -> None:
    student, teacher = random_predictions(prototypes=11)
    uniform = dataclasses.replace(student, prototypes=torch.zeros_like(student.prototypes))
    for name, value in loss_parts(uniform, teacher, counts_of(teacher), LossOptions())[1].items():
        assert float(value.detach()) == pytest.approx(math.log(11), rel=1e-12), name


def test_a_view_is_never_matched_with_itself() -> None:
    """The teacher is certain of prototype 0 for view 0, and of prototype 1 for view 1."""
    student, teacher = random_predictions(images=1, width=7, prototypes=7, local_crops=0)
    axes = torch.eye(7, dtype=torch.float64)
    teacher_classes = teacher.predictions.classes.clone()
    teacher_classes[:, 0], teacher_classes[:, 1] = axes[0], axes[1]
    swapped = teacher_classes.flip(1)  # the correct predictions, if each view is matched with the other view
    certain = dataclasses.replace(
        teacher,
        predictions=Predictions(teacher_classes, teacher.predictions.local_classes, teacher.predictions.patches, axes),
        centres=torch.zeros(3, 7, dtype=torch.float64),
        temperature=0.01,
    )

    def image_loss(classes: torch.Tensor) -> float:
        _, parts = loss_parts(
            dataclasses.replace(student, classes=classes, prototypes=axes),
            certain,
            counts_of(certain),
            LossOptions(student_temperature=0.01),
        )
        return float(parts["g_cl"])

    assert image_loss(swapped) < 1e-6
    assert image_loss(teacher_classes) == pytest.approx(100, rel=1e-3)  # 1 / temperature


def test_with_alpha_zero_only_the_class_token_counts_and_with_alpha_one_only_the_patches() -> None:
    _, teacher = random_predictions()
    predictions = teacher.predictions
    torch.testing.assert_close(teacher.blended_vectors(None, 0.0), predictions.classes[0])
    other = dataclasses.replace(teacher, predictions=dataclasses.replace(predictions, classes=-predictions.classes))
    torch.testing.assert_close(teacher.blended_vectors(0, 1.0), other.blended_vectors(0, 1.0))


def test_centres_are_means_of_raw_logits() -> None:
    _, teacher = random_predictions(local_crops=2)
    predictions, options = teacher.predictions, LossOptions(alpha=0.4)
    logits = predictions.patches @ predictions.prototypes.T
    cls = predictions.classes[0] @ predictions.prototypes.T
    valid = teacher.alignment.valid
    blends = []
    for start, stop in ((0, 4), (4, 6), (6, 8)):  # samples of the global crop, then of both local crops
        is_valid = valid[:, :, start:stop].double()
        sums = (logits[:, :, start:stop] * is_valid[..., None]).sum(2)
        mean = sums / (is_valid.sum(-1, keepdim=True) + 1e-5)
        blends.append(0.4 * mean + 0.6 * cls)
    expected = torch.stack([cls.mean((0, 1)), torch.stack(blends).mean((0, 1, 2)), logits[valid].mean(0)])
    sums, counts = vector_sums(teacher, options)
    assert counts.tolist() == [6, 18, float(valid.sum())]  # 3 images, 2 views; 3 groups of requests
    moved = updated_centres(teacher.centres, sums / counts[:, None], counts, predictions.prototypes, momentum=0.9)
    torch.testing.assert_close(moved, 0.9 * teacher.centres + 0.1 * expected, rtol=1e-6, atol=1e-9)


def test_a_centre_without_valid_vectors_does_not_change() -> None:
    _, teacher = random_predictions(share_valid=0.0)
    sums, counts = vector_sums(teacher, LossOptions())
    moved = updated_centres(
        teacher.centres, sums / counts.clamp_min(1)[:, None], counts, teacher.predictions.prototypes, momentum=0.9
    )
    assert torch.equal(moved[2], teacher.centres[2])
    assert not torch.equal(moved[0], teacher.centres[0])


def test_warnings_tell_collapsed_and_uniform_teachers_from_healthy_ones() -> None:
    _, teacher = random_predictions(images=200, prototypes=40, width=30)

    def warning(teacher: Teacher) -> str:
        entropy, predictions = (value / 400 for value in teacher_statistics(teacher))  # 200 images, 2 views
        return collapse_warning(float(entropy), float(diversity(entropy, predictions)), prototypes=40)

    equal_predictions = dataclasses.replace(
        teacher.predictions, classes=teacher.predictions.classes[:, :1, :1].expand(2, 2, 200, -1)
    )
    assert warning(teacher) == ""
    assert "collapsed" in warning(dataclasses.replace(teacher, predictions=equal_predictions, temperature=0.5))
    assert "uniform" in warning(
        dataclasses.replace(teacher, temperature=100.0, centres=torch.zeros_like(teacher.centres))
    )
    assert "single prototype" in warning(dataclasses.replace(teacher, temperature=1e-3))
