"""Update the centres of the teacher's logits (spec udi 4), and detect a collapsed teacher (spec udi 9.3).

Each level (cls, cls+, patches) has one centre: the moving average of its mean logits. The mean of the logits is W times
the mean of the unit vectors, so the parts of a batch and the processes add up only unit vectors. A teacher can collapse
in two ways: every image gets the same prediction (diversity 0), or every prediction is uniform (entropy ln K).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.pretraining.udi.losses import LossOptions, Teacher

MIN_DIVERSITY, MIN_ENTROPY, MIN_DISTANCE_TO_UNIFORM = 0.05, 0.5, 0.05
"""Limits in nats. A teacher below one of these limits has collapsed. The last limit is for ln K minus the entropy."""


def vector_sums(teacher: Teacher, options: LossOptions) -> tuple[Float[Tensor, "levels w"], Float[Tensor, " levels"]]:
    """Return the sum and the number of the unit vectors of each level.

    - cls: vectors of both global views
    - cls+: blended vectors of all pairs of views
    - patches: vectors of all valid requests, including requests of local crops
    """
    predictions = teacher.predictions
    vectors = predictions.classes[0].flatten(0, 1)  # [2*b w]
    sums, counts = [vectors.sum(0)], [vectors.new_full((), len(vectors))]
    if len(predictions.classes) > 1:
        other_views: list[int | None] = [None, *range(teacher.local_crops)]  # None: the other global view
        blended = [teacher.blended_vectors(view, options.alpha).sum((0, 1)) for view in other_views]
        sums.append(torch.stack(blended).sum(0))
        counts.append(vectors.new_full((), len(vectors) * len(other_views)))
    if predictions.patches.shape[2]:
        valid = teacher.alignment.valid.to(vectors.dtype)
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
    """Return `m c + (1 - m) W mean`. The centre of a level without valid vectors does not change."""
    new_centres = momentum * centres + (1 - momentum) * means @ prototypes.T
    return torch.where(counts[:, None] > 0, new_centres, centres)


def teacher_statistics(teacher: Teacher) -> tuple[Float[Tensor, ""], Float[Tensor, " k"]]:
    """Return the sum of the entropies and the sum of the predictions of cls, over the global views of this process."""
    vectors = teacher.predictions.classes[0].flatten(0, 1)
    logits = (vectors @ teacher.predictions.prototypes.T - teacher.centres[0]) / teacher.temperature
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(), logs.exp().sum(0)


def diversity(entropy: Float[Tensor, ""], mean: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Return H(mean prediction) - mean H(prediction) in nats: 0 if all images get the same prediction. H: entropy.

    entropy: mean entropy of the predictions. mean: mean prediction.
    """
    return torch.special.entr(mean).sum() - entropy


def collapse_warning(entropy: float, mean_diversity: float, prototypes: int) -> str:
    """Return a warning if the predictions of the teacher show a collapse, otherwise an empty text.

    entropy, mean_diversity: in nats. prototypes: number of prototypes K.
    """
    if entropy > math.log(prototypes) - MIN_DISTANCE_TO_UNIFORM:
        return (
            f"the teacher's predictions are uniform (entropy {entropy:.2f} of {math.log(prototypes):.2f} nats): "
            "the student can't learn from them. A higher --lr, a lower --teacher-temp or --init xavier may help."
        )
    if mean_diversity < MIN_DIVERSITY:
        return (
            f"the teacher has collapsed: it predicts the same for all images (diversity {mean_diversity:.3f} nats). "
            "A higher --warmup-teacher-temp, --momentum-teacher or batch size may help."
        )
    if entropy < MIN_ENTROPY:
        return (
            f"each prediction of the teacher is almost a single prototype (entropy {entropy:.2f} nats), which leads to "
            "collapse. "
            "A higher --warmup-teacher-temp may help."
        )
    return ""
