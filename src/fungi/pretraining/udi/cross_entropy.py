"""Cross-entropy of predictions with logits that are linear in short vectors. The logits are not stored.

With student logits s = W f / T, teacher targets p_t = softmax((W' f'_t - c) / T') and weights w_t, the loss of a row is

    sum_t w_t CE(p_t, s) = w lse(s) - P . s,      w = sum_t w_t,   P = sum_t w_t p_t.

Its derivative with respect to s is w softmax(s) - P. The loss and this derivative are computed for a tile of a few rows
at a time. Only the derivatives with respect to f and W are stored, because each row has K = 65,536 logits. W is large
too, so all terms add to one derivative with respect to W.
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
    """Targets of the student: t weighted distributions per row.

    vectors: outputs of the teacher's head. weights: per distribution and row, None if all are 1. centre: subtracted
    from the logits.
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
        mixed: Tensor | None = None
        for target, weight in zip(vectors, weights, strict=True):
            probabilities = linear(target, self.prototypes, shift).softmax(dim=1)
            if self.weights is not None:
                probabilities.mul_(weight[:, None])
            mixed = probabilities if mixed is None else mixed.add_(probabilities)
        assert mixed is not None
        return mixed, weights.sum(0)


@dataclass(frozen=True)
class Term:
    """A sum of cross-entropies over l and r. All l have the same targets.

    scale: the factor of this term in the total. It can be a tensor on the device.
    """

    student: Float[Tensor, "l r w"]
    targets: Targets
    scale: float | Float[Tensor, ""]


def cross_entropies(
    terms: Sequence[Term], prototypes: Float[Tensor, "k w"], temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
    """Return the total, `sum of scale * term`, and the terms. Only the total is differentiable."""
    outputs = _CrossEntropies.apply(prototypes, temperature, terms, *(term.student for term in terms))
    assert isinstance(outputs, tuple)
    return outputs


class _CrossEntropies(torch.autograd.Function):
    """Compute the derivatives in the forward pass, so that logits need not be stored."""

    @staticmethod
    def forward(
        ctx: Any, prototypes: Float[Tensor, "k w"], temperature: float, terms: Sequence[Term], *students: Tensor
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
        by_prototypes = torch.zeros_like(prototypes)
        results = [_cross_entropy(term, prototypes, temperature, by_prototypes) for term in terms]
        losses = torch.stack([loss for loss, _ in results])
        ctx.save_for_backward(by_prototypes, *(by_student for _, by_student in results))
        ctx.mark_non_differentiable(losses)
        total = torch.stack([loss * term.scale for loss, term in zip(losses, terms, strict=True)]).sum()
        return total, losses

    @staticmethod
    def backward(
        ctx: Any, by_total: Float[Tensor, ""], _by_losses: Float[Tensor, " terms"]
    ) -> tuple[Float[Tensor, "..."] | None, ...]:
        by_prototypes, *by_students = (derivative * by_total for derivative in ctx.saved_tensors)
        return by_prototypes, None, None, *by_students


def _cross_entropy(
    term: Term, prototypes: Float[Tensor, "k w"], temperature: float, by_prototypes: Float[Tensor, "k w"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "l r w"]]:
    """Return the term and the derivative of `scale * term` with respect to the student.

    The derivative with respect to the prototypes is added to `by_prototypes`.
    """
    loss, by_student = term.student.new_zeros(()), torch.zeros_like(term.student)
    step = max(1, TILE // len(prototypes))
    for start in range(0, term.student.shape[1], step):
        rows = slice(start, start + step)
        mixture, weight = term.targets.mixture(rows)
        width = max(1, step // len(mixture))  # number of l in a tile
        for first in range(0, len(term.student), width):
            tile = slice(first, first + width), rows
            vectors = term.student[tile] / temperature  # [l r w]
            logits = linear(vectors.flatten(0, 1), prototypes)  # [l*r k]
            total = torch.logsumexp(logits, dim=1).view(vectors.shape[:2])
            logits = logits.view(*vectors.shape[:2], -1)
            loss += (weight * total).sum() - torch.einsum("lrk,rk->", logits, mixture)
            error = logits.sub_((total - weight.log())[..., None]).exp_().sub_(mixture).flatten(0, 1)  # [l*r k]
            by_student[tile] = (error @ prototypes).view_as(vectors) * (term.scale / temperature)
            by_prototypes.addmm_(error.T, vectors.flatten(0, 1) * term.scale)
    return loss, by_student
