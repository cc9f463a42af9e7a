"""Running centres of the teacher's logits, one per level: cls, cls+, patches (spec udi 4).

A centre's update is a mean of logits, hence W times a mean of unit vectors: sums of those are all that is collected,
over the parts of a batch and over processes.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.pretraining.losses import LossOptions, Teacher


def vector_sums(teacher: Teacher, options: LossOptions) -> tuple[Float[Tensor, "levels w"], Float[Tensor, " levels"]]:
    """Sums of the unit vectors behind each level's raw logits, and how many there are.

    cls: both global views. cls+: the blended vectors of all pairs. Patches: all valid requests, also those of locals.
    """
    predictions = teacher.predictions
    own = predictions.classes[0].flatten(0, 1)  # [2*b w]
    sums, counts = [own.sum(0)], [float(len(own))]
    if len(predictions.classes) > 1:
        origins: list[int | None] = [None, *range(teacher.local_crops)]
        sums.append(torch.stack([teacher.blended(local, options.alpha).sum((0, 1)) for local in origins]).sum(0))
        counts.append(float(len(own) * len(origins)))
    if predictions.patches.shape[2]:
        valid = teacher.alignment.valid.to(own.dtype)
        sums.append(torch.einsum("vbrw,vbr->w", predictions.patches, valid))
        counts.append(float(valid.sum()))
    return torch.stack(sums), torch.tensor(counts, device=own.device, dtype=own.dtype)


def updated(
    centres: Float[Tensor, "levels k"],
    means: Float[Tensor, "levels w"],
    counts: Float[Tensor, " levels"],
    prototypes: Float[Tensor, "k w"],
    *,
    momentum: float,
) -> Float[Tensor, "levels k"]:
    """`c <- m c + (1 - m) W mean`; a level without a single valid vector keeps its centre."""
    moved = momentum * centres + (1 - momentum) * means @ prototypes.T
    return torch.where(counts[:, None] > 0, moved, centres)
