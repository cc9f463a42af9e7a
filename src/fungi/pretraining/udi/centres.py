"""Running centres of the teacher's logits (spec udi 4), and detection of a collapsed teacher (9.3).

Each level (cls, cls+, patches) has one centre, the moving average of its mean logits. The mean of the logits is W times
the mean of the unit vectors, so only sums of unit vectors are collected over the parts of a batch and over processes. A
teacher can collapse in two ways. Every image gets the same prediction (diversity 0), or every prediction is uniform
(entropy ln K).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.pretraining.udi.losses import LossOptions, Teacher

MIN_DIVERSITY, MIN_ENTROPY, MIN_DISTANCE_TO_UNIFORM = 0.05, 0.5, 0.05
"""A teacher below one of these limits, in nats, counts as collapsed. The last limit is for ln K minus its entropy."""


def vector_sums(teacher: Teacher, options: LossOptions) -> tuple[Float[Tensor, "levels w"], Float[Tensor, " levels"]]:
    """Return the sum of the unit vectors of each level, and their number. Raw logits are W times these vectors.

    - cls: vectors of both global views
    - cls+: blended vectors of all pairs of views
    - patches: vectors of all valid requests, including requests of local crops
    """
    predictions = teacher.predictions
    own = predictions.classes[0].flatten(0, 1)  # [2*b w]
    sums, counts = [own.sum(0)], [own.new_full((), len(own))]
    if len(predictions.classes) > 1:
        origins: list[int | None] = [None, *range(teacher.local_crops)]
        sums.append(torch.stack([teacher.blended(local, options.alpha).sum((0, 1)) for local in origins]).sum(0))
        counts.append(own.new_full((), len(own) * len(origins)))
    if predictions.patches.shape[2]:
        valid = teacher.alignment.valid.to(own.dtype)
        sums.append(torch.einsum("vbrw,vbr->w", predictions.patches, valid))
        counts.append(valid.sum())
    return torch.stack(sums), torch.stack(counts)


def updated_centres(
    centres: Float[Tensor, "levels k"],
    means: Float[Tensor, "levels w"],
    counts: Float[Tensor, " levels"],
    prototypes: Float[Tensor, "k w"],
    *,
    momentum: float,
) -> Float[Tensor, "levels k"]:
    """Return `m c + (1 - m) W mean`. A level without valid vectors keeps its centre."""
    moved = momentum * centres + (1 - momentum) * means @ prototypes.T
    return torch.where(counts[:, None] > 0, moved, centres)


def teacher_statistics(teacher: Teacher) -> tuple[Float[Tensor, ""], Float[Tensor, " k"]]:
    """Return the sums of the entropies and of the predictions of cls over the global views of this process."""
    vectors = teacher.predictions.classes[0].flatten(0, 1)
    logits = (vectors @ teacher.predictions.prototypes.T - teacher.centres[0]) / teacher.temperature
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(), logs.exp().sum(0)


def diversity(entropy: Float[Tensor, ""], mean: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Return H(mean prediction) - mean H(prediction) in nats. It is 0 if all images get the same prediction."""
    return torch.special.entr(mean).sum() - entropy


def collapse_warning(entropy: float, mean_diversity: float, prototypes: int) -> str:
    """Return a warning if the teacher's predictions show a collapse, otherwise an empty text. Values in nats."""
    if entropy > math.log(prototypes) - MIN_DISTANCE_TO_UNIFORM:
        return (
            f"the teacher's predictions are uniform (entropy {entropy:.2f} of {math.log(prototypes):.2f} nats): "
            "nothing is learned from them. A higher --lr, a lower --teacher-temp or --init xavier may help."
        )
    if mean_diversity < MIN_DIVERSITY:
        return (
            f"the teacher predicts the same for every image (diversity {mean_diversity:.3f} nats): it has collapsed. "
            "A higher --warmup-teacher-temp, --momentum-teacher or batch size may help."
        )
    if entropy < MIN_ENTROPY:
        return (
            f"the teacher is certain of a single prototype (entropy {entropy:.2f} nats), which leads to collapse. "
            "A higher --warmup-teacher-temp may help."
        )
    return ""
