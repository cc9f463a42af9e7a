"""Cross-entropy between predictions whose logits are linear in short vectors, without keeping any logits.

With student logits s = W f, teacher targets p_t = softmax((W' f'_t - c) / T') and weights w_t, one row asks for

    sum_t w_t CE(p_t, s / T) = (sum_t w_t) lse(s / T) - P . s / T,      P = sum_t w_t p_t,

whose derivative by s is ((sum_t w_t) softmax(s / T) - P) / T. Both are formed for a few rows at a time, and only the
derivatives by f and W are kept: K = 65,536 logits of each row live as long as one tile.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

TILE = 2**22
"""Logits that are held at once."""


@dataclass(frozen=True)
class Targets:
    """What rows of the student are asked to predict: t weighted distributions each.

    vectors: of the teacher's head; weights: per distribution and row; centre: subtracted from logits.
    """

    vectors: Float[Tensor, "t r w"]
    weights: Float[Tensor, "t r"]
    prototypes: Float[Tensor, "k w"]
    centre: Float[Tensor, " k"]
    temperature: float

    def mixture(self, rows: slice) -> Float[Tensor, "r k"]:
        """P of some rows."""
        mixed: Tensor | None = None
        for vectors, weights in zip(self.vectors[:, rows], self.weights[:, rows], strict=True):
            probabilities = torch.addmm(-self.centre, vectors, self.prototypes.T).div_(self.temperature).softmax(dim=1)
            probabilities.mul_(weights[:, None])
            mixed = probabilities if mixed is None else mixed.add_(probabilities)
        assert mixed is not None
        return mixed


def cross_entropy(
    student: Float[Tensor, "l r w"], prototypes: Float[Tensor, "k w"], targets: Targets, temperature: float
) -> Float[Tensor, ""]:
    """Sum over l and r; the rows of all l share their targets."""
    loss = _CrossEntropy.apply(student, prototypes, targets, temperature)
    assert isinstance(loss, Tensor)
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Derivatives are found on the way forward: logits are not needed again."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Float[Tensor, "l r w"],
        prototypes: Float[Tensor, "k w"],
        targets: Targets,
        temperature: float,
    ) -> Float[Tensor, ""]:
        loss = student.new_zeros(())
        by_student, by_prototypes = torch.zeros_like(student), torch.zeros_like(prototypes)
        weights = targets.weights.sum(0)
        step = max(1, TILE // len(prototypes))
        for start in range(0, student.shape[1], step):
            rows = slice(start, start + step)
            mixture = targets.mixture(rows)
            for place, vectors in enumerate(student[:, rows]):
                logits = (vectors @ prototypes.T).div_(temperature)
                total = torch.logsumexp(logits, dim=1)
                loss += (weights[rows] * total).sum() - (mixture * logits).sum()
                error = logits.sub_(total[:, None]).exp_().mul_(weights[rows, None]).sub_(mixture)  # [r k]
                by_student[place, rows] = error @ prototypes
                by_prototypes.addmm_(error.T, vectors)
        ctx.save_for_backward(by_student.div_(temperature), by_prototypes.div_(temperature))
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_student, by_prototypes = ctx.saved_tensors
        return gradients[0] * by_student, gradients[0] * by_prototypes, None, None
