"""The gradient of a layer's weight as a sum of outer products, over all positions or for each position.

With inputs `a_s` and signals `delta_s = dL/d(output_s)` at positions s (views x tokens of one sample),

    grad_W = sum_s delta_s a_s^T,    grad_b = sum_s delta_s        (spec vision 5).

`Terms` contains both factors of every position. There are two strategies: `SumOfPositions` computes one gradient per
sample, and `EachPosition` one gradient per position (dense features, spec hummingbird 4.3). In both cases a projector
takes terms and returns one row per gradient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """Outer products that add up to the gradients of b rows (samples, or single positions of samples).

    signals, activations: of s positions, in g blocks: the groups of a convolution, one block for other layers. The
    blocks are concatenated along the output axis of the gradient. bias: the sum of the signals is appended as one more
    input column.
    """

    signals: Float[Tensor, "b g s o"]
    activations: Float[Tensor, "b g s i"]
    bias: bool

    def __len__(self) -> int:
        return len(self.signals)

    def formed(self) -> Float[Tensor, "b o i_and_bias"]:
        """Return the gradients in float32: `[b g o s] x [b g s i] -> [b g*o i]`. The bias is the last column.

        This is one matrix product per row and block. Gradients of single views or tokens are not formed.
        """
        signals, activations = self.signals.float().flatten(0, 1), self.activations.float().flatten(0, 1)
        gradient = torch.bmm(signals.transpose(1, 2), activations)
        if self.bias:
            gradient = torch.cat([gradient, signals.sum(dim=1).unsqueeze(2)], dim=2)
        return gradient.unflatten(0, (len(self), -1)).flatten(1, 2)

    def extended(self) -> Float[Tensor, "b g s i_and_bias"]:
        """Return the activations in float32. If there is a bias, a last entry 1 is added: the bias is its weight."""
        activations = self.activations.float()
        return torch.nn.functional.pad(activations, (0, 1), value=1.0) if self.bias else activations

    @staticmethod
    def joined(parts: Sequence["Terms"]) -> "Terms":
        """Concatenate the positions of the same rows from several forward passes. Their gradients add up."""
        if len(parts) == 1:
            return parts[0]
        signals, activations = ([getattr(part, name) for part in parts] for name in ("signals", "activations"))
        return Terms(torch.cat(signals, dim=2), torch.cat(activations, dim=2), parts[0].bias)

    def split(self, rows: int) -> Iterator["Terms"]:
        """Yield parts of at most `rows` rows."""
        for signals, activations in zip(self.signals.split(rows), self.activations.split(rows), strict=True):
            yield Terms(signals, activations, self.bias)


@runtime_checkable
class Positions(Protocol):
    """Strategy that decides which positions add up to a gradient."""

    def rows(self, terms: Terms) -> Terms:
        """Return terms with a row for each gradient, from terms with a row for each sample."""

    def by_sample(self, projected: Float[Tensor, "rows p"], samples: int) -> Float[Tensor, "b *s p"]:
        """Return the projected gradients grouped by sample."""


@dataclass(frozen=True)
class SumOfPositions:
    """One gradient per sample, the gradient of its loss: `[b p]`."""

    def rows(self, terms: Terms) -> Terms:
        """Return the terms unchanged, since each row is a sample."""
        return terms

    def by_sample(self, projected: Float[Tensor, "b p"], samples: int) -> Float[Tensor, "b p"]:
        """Return the projected gradients unchanged, since each sample has one."""
        return projected


@dataclass(frozen=True)
class EachPosition:
    """One gradient per position, which has a single term: `[b s p]`; s counts views x tokens of the layer.

    prefix: number of positions at the start of a view that are left out (class token, registers). If it is not 0, each
    sample must have one view.
    """

    prefix: int = 0

    def rows(self, terms: Terms) -> Terms:
        """Return terms with a row for each position: `[b g s o] -> [b*s g 1 o]`."""

        def as_rows(values: Float[Tensor, "b g s f"]) -> Float[Tensor, "rows g 1 f"]:
            return values[:, :, self.prefix :].transpose(1, 2).flatten(0, 1).unsqueeze(2)

        return Terms(as_rows(terms.signals), as_rows(terms.activations), terms.bias)

    def by_sample(self, projected: Float[Tensor, "rows p"], samples: int) -> Float[Tensor, "b s p"]:
        """Return the projected gradients by sample and position: `[b*s p] -> [b s p]`."""
        return projected.unflatten(0, (samples, -1))
