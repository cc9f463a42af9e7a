"""The losses of UDI by loops over pairs of views, with all logits, in float64 (spec udi 4)."""

import torch
from torch import Tensor

from fungi.pretraining.udi.losses import LossOptions, Teacher
from fungi.pretraining.udi.network import Alignment, Predictions

ZERO = torch.zeros((), dtype=torch.float64)


# Complex (C901) on purpose: the oracle is the formulas of the specification as loops, in one place.
def simple_parts(student: Predictions, teacher: Teacher, options: LossOptions) -> dict[str, Tensor]:  # noqa: C901
    """Return the value of each part of the loss, under the names of `fungi.pretraining.udi.losses`."""
    predictions, valid, samples = teacher.predictions, teacher.alignment.valid, teacher.samples
    cls_logits = predictions.classes[0] @ predictions.prototypes.T
    all_patch_logits = predictions.patches @ predictions.prototypes.T
    logits, local_logits = student.classes @ student.prototypes.T, student.local_classes @ student.prototypes.T
    images, local_crops = predictions.classes.shape[2], student.local_classes.shape[1]
    local_samples = (all_patch_logits.shape[2] - samples) // local_crops if local_crops else 0

    def target(logits: Tensor, level: int) -> Tensor:
        return ((logits - teacher.centres[level]) / teacher.temperature).softmax(-1)

    def cross_entropy(p: Tensor, logits: Tensor) -> Tensor:
        return -(p * (logits / options.student_temperature).log_softmax(-1)).sum()

    def target_with_patches(view: int, image: int, rows: slice) -> Tensor:
        patch_logits, is_valid = all_patch_logits[view, image, rows], valid[view, image, rows]
        if options.target_mix == "probs":
            if not is_valid.any():
                return target(cls_logits[view, image], 1)
            shares = target(patch_logits, 1)[is_valid].mean(0)
            return options.alpha * shares + (1 - options.alpha) * target(cls_logits[view, image], 1)
        mean = (patch_logits * is_valid[:, None]).sum(0) / (is_valid.double().sum() + 1e-5)
        return target(options.alpha * mean + (1 - options.alpha) * cls_logits[view, image], 1)

    sums: dict[str, list[Tensor]] = {"g_cl": [], "l_cl": [], "g_mcl": [], "l_mcl": [], "g_pch": []}
    for image in range(images):
        for a, b in ((0, 1), (1, 0)):  # view a of the student, view b of the teacher
            sums["g_cl"].append(cross_entropy(target(cls_logits[b, image], 0), logits[0, a, image]))
            sums["g_mcl"].append(cross_entropy(target_with_patches(b, image, slice(samples)), logits[1, a, image]))
            for k in range(samples):
                if valid[b, image, k]:
                    p = target(all_patch_logits[b, image, k], 2)
                    sums["g_pch"].append(cross_entropy(p, student.patches[a, image, k] @ student.prototypes.T))
        for local in range(local_crops):
            rows = slice(samples + local * local_samples, samples + (local + 1) * local_samples)
            for b in (0, 1):
                sums["l_cl"].append(cross_entropy(target(cls_logits[b, image], 0), local_logits[0, local, image]))
                sums["l_mcl"].append(cross_entropy(target_with_patches(b, image, rows), local_logits[1, local, image]))
    return {name: torch.stack(values).mean() if values else ZERO for name, values in sums.items()}


def alignment_of(valid: Tensor, samples: int) -> Alignment:
    """Return an alignment with these valid samples. Its maps are empty, because the losses do not use them."""
    _, images, requests = valid.shape
    valid_indices = [
        (view * images + image) * samples + sample
        for view in (0, 1)
        for image in range(images)
        for sample in range(samples)
        if valid[1 - view, image, sample]
    ]
    empty = torch.zeros(2, images, samples, 9), torch.zeros(2, images, requests, 9)
    return Alignment(*empty, valid, torch.tensor(valid_indices, dtype=torch.int64))


def random_predictions(
    *,
    images: int = 3,
    local_crops: int = 2,
    samples: int = 4,
    local_samples: int = 2,
    width: int = 5,
    prototypes: int = 7,
    share_valid: float = 0.7,
    seed: int = 0,
) -> tuple[Predictions, Teacher]:
    """Return random predictions of a student, which require gradients, and of a teacher, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> Tensor:
        rows = torch.randn(*shape, width, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(rows, dim=-1)

    requests = samples + local_crops * local_samples
    student = Predictions(
        unit(2, 2, images).requires_grad_(),
        unit(2, local_crops, images).requires_grad_(),
        unit(2, images, samples).requires_grad_(),
        unit(prototypes).requires_grad_(),
    )
    predictions = Predictions(unit(2, 2, images), unit(2, 0, images), unit(2, images, requests), unit(prototypes))
    valid = torch.rand(2, images, requests, generator=generator) < share_valid
    alignment = alignment_of(valid, samples)
    centres = torch.randn(3, prototypes, generator=generator, dtype=torch.float64) * 0.2
    return student, Teacher(predictions, alignment, centres, 0.05, local_crops)
