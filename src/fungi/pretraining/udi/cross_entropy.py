"""Compute the cross-entropy of predictions whose logits are linear in short vectors, without storing the logits.

With student logits s = W f / T, teacher targets p_t = softmax((W' f'_t - c) / T') and weights w_t, the loss of a row is

    sum_t w_t CE(p_t, s) = w lse(s) - P . s,      w = sum_t w_t,   P = sum_t w_t p_t.

Its derivative with respect to s is w softmax(s) - P. The loss and this derivative are computed for a few rows at a time
(a tile). Each row has K = 65,536 logits, so only the derivatives with respect to f and W are stored. W is also large.
Therefore, all terms share one derivative with respect to W.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.runtime.products import linear

TILE = 2**23
"""Number of logits in a tile. About three tiles are in memory at once."""


@dataclass(frozen=True)
class Targets:
    """The targets of the student: t weighted distributions per row.

    vectors: outputs of the teacher's head. weights: weight of each distribution and row; None if all are 1.
    prototypes, temperature: last layer and temperature of the teacher.
    centre: vector that is subtracted from the logits.
    """

    vectors: Float[Tensor, "t r w"]
    weights: Float[Tensor, "t r"] | None
    prototypes: Float[Tensor, "k w"]
    centre: Float[Tensor, " k"]
    temperature: float

    def mixture(self, rows: slice) -> tuple[Float[Tensor, "r k"], Float[Tensor, " r"]]:
        """Return P and w of some rows."""
        vectors, shift = self.vectors[:, rows] / self.temperature, self.centre / -self.temperature
        weights = torch.ones_like(vectors[..., 0]) if self.weights is None else self.weights[:, rows]
        mixture: Tensor | None = None
        for target, weight in zip(vectors, weights, strict=True):
            probabilities = linear(target, self.prototypes, shift).softmax(dim=1)
            if self.weights is not None:
                probabilities.mul_(weight[:, None])
            mixture = probabilities if mixture is None else mixture.add_(probabilities)
        assert mixture is not None
        return mixture, weights.sum(0)


@dataclass(frozen=True)
class Term:
    """A sum of cross-entropies over the axes l and r of the student's vectors. The targets do not depend on l.

    scale: factor of this term in the total; a number, or a tensor on the device.
    """

    student: Float[Tensor, "l r w"]
    targets: Targets
    scale: float | Float[Tensor, ""]


def cross_entropies(
    terms: Sequence[Term], prototypes: Float[Tensor, "k w"], temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
    """Return the total (the sum of `scale * term`) and the terms. Only the total is differentiable.

    prototypes, temperature: last layer and temperature of the student.
    """
    outputs = _CrossEntropies.apply(prototypes, temperature, terms, *(term.student for term in terms))
    assert isinstance(outputs, tuple)
    return outputs


class _CrossEntropies(torch.autograd.Function):
    """Autograd function that computes the derivatives in its forward pass, because the logits are not stored."""

    @staticmethod
    def forward(
        context: Any, prototypes: Float[Tensor, "k w"], temperature: float, terms: Sequence[Term], *students: Tensor
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
        prototype_derivative = torch.zeros_like(prototypes)
        results = [_cross_entropy(term, prototypes, temperature, prototype_derivative) for term in terms]
        losses = torch.stack([loss for loss, _ in results])
        context.save_for_backward(prototype_derivative, *(student_derivative for _, student_derivative in results))
        context.mark_non_differentiable(losses)
        total = torch.stack([loss * term.scale for loss, term in zip(losses, terms, strict=True)]).sum()
        return total, losses

    @staticmethod
    def backward(
        context: Any, total_derivative: Float[Tensor, ""], _loss_derivatives: Float[Tensor, " terms"]
    ) -> tuple[Float[Tensor, "..."] | None, ...]:
        prototype_derivative, *student_derivatives = (
            derivative * total_derivative for derivative in context.saved_tensors
        )
        return prototype_derivative, None, None, *student_derivatives


def _cross_entropy(
    term: Term, prototypes: Float[Tensor, "k w"], temperature: float, prototype_derivative: Float[Tensor, "k w"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "l r w"]]:
    """Return the term, and the derivative of `scale * term` with respect to the vectors of the student.

    The derivative with respect to the prototypes is added to `prototype_derivative`.
    """
    loss, student_derivative = term.student.new_zeros(()), torch.zeros_like(term.student)
    tile_rows = max(1, TILE // len(prototypes))
    for start in range(0, term.student.shape[1], tile_rows):
        rows = slice(start, start + tile_rows)
        mixture, weight = term.targets.mixture(rows)
        width = max(1, tile_rows // len(mixture))  # number of l in a tile
        for first in range(0, len(term.student), width):
            tile = slice(first, first + width), rows
            vectors = term.student[tile] / temperature  # [l r w]
            logits = linear(vectors.flatten(0, 1), prototypes)  # [l*r k]
            log_sums = torch.logsumexp(logits, dim=1).view(vectors.shape[:2])
            logits = logits.view(*vectors.shape[:2], -1)
            loss += (weight * log_sums).sum() - torch.einsum("lrk,rk->", logits, mixture)
            # The derivative w softmax(s) - P overwrites the logits.
            derivative = logits.sub_((log_sums - weight.log())[..., None]).exp_().sub_(mixture).flatten(0, 1)  # [l*r k]
            student_derivative[tile] = (derivative @ prototypes).view_as(vectors) * (term.scale / temperature)
            prototype_derivative.addmm_(derivative.T, vectors.flatten(0, 1) * term.scale)
    return loss, student_derivative
