"""Whether the teacher still tells images apart (spec udi 9.3).

Two ways to fail: every image gets the same prediction (diversity 0), or every prediction is uniform (entropy ln K).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.pretraining.losses import Teacher

LEAST_DIVERSITY, LEAST_ENTROPY, UNIFORM = 0.05, 0.5, 0.05  # nats


def teacher_statistics(teacher: Teacher) -> tuple[Float[Tensor, ""], Float[Tensor, " k"]]:
    """Sum over this process's global views of the entropy of cls predictions, and the sum of the predictions."""
    vectors = teacher.predictions.classes[0].flatten(0, 1)
    logits = (vectors @ teacher.predictions.prototypes.T - teacher.centres[0]) / teacher.temperature
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(), logs.exp().sum(0)


def diversity(entropy: float, mean: Float[Tensor, " k"]) -> float:
    """H(mean prediction) - mean H(prediction), in nats: 0 where all images get the same."""
    return float(torch.special.entr(mean).sum()) - entropy


def warning(entropy: float, spread: float, prototypes: int) -> str:
    """What is wrong with the teacher's predictions; empty where nothing is."""
    if entropy > math.log(prototypes) - UNIFORM:
        return (
            f"the teacher's predictions are uniform (entropy {entropy:.2f} of {math.log(prototypes):.2f} nats): "
            "nothing is learned from them. A higher --lr, a lower --teacher-temp or --init xavier may help."
        )
    if spread < LEAST_DIVERSITY:
        return (
            f"the teacher predicts the same for every image (diversity {spread:.3f} nats): it has collapsed. "
            "A higher --warmup-teacher-temp, --momentum-teacher or batch size may help."
        )
    if entropy < LEAST_ENTROPY:
        return (
            f"the teacher is certain of a single prototype (entropy {entropy:.2f} nats), which leads to collapse. "
            "A higher --warmup-teacher-temp may help."
        )
    return ""
