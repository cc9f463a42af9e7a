"""The gradient of a layer's weight as a sum of outer products, and how many of them make one gradient.

With inputs `a_s` and signals `delta_s = dL/d(output_s)` at positions s (views x tokens of one sample),

    grad_W = sum_s delta_s a_s^T,    grad_b = sum_s delta_s        (spec vision 5).

`Terms` holds both factors of every position. Two strategies say what a gradient is: `SumOfPositions` makes one of all
positions of a sample, `EachPosition` one of each (dense features, spec hummingbird 4.3). Either way a projection gets
terms and gives one row for each gradient: it may form the sums, or never do so where its own rows are outer products.
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

    signals, activations: of s positions; g blocks, of which a convolution with groups has several and other layers
    one, lie below each other in the gradient. bias: the sum of the signals is appended as one more input column.
    """

    signals: Float[Tensor, "b g s o"]
    activations: Float[Tensor, "b g s i"]
    bias: bool

    def __len__(self) -> int:
        return len(self.signals)

    def formed(self) -> Float[Tensor, "b o i_and_bias"]:
        """Return the gradients: `[b g o s] x [b g s i] -> [b g*o i]`, in float32, and the bias as a last column.

        One matrix product per row: neither per-view nor per-token gradients are formed on the way.
        """
        signals, activations = self.signals.float().flatten(0, 1), self.activations.float().flatten(0, 1)
        gradient = torch.bmm(signals.transpose(1, 2), activations)
        if self.bias:
            gradient = torch.cat([gradient, signals.sum(dim=1).unsqueeze(2)], dim=2)
        return gradient.unflatten(0, (len(self), -1)).flatten(1, 2)

    def extended(self) -> Float[Tensor, "b g s i_and_bias"]:
        """Return the activations in float32, with a one at the end for the bias: signals times these are the terms."""
        activations = self.activations.float()
        return torch.nn.functional.pad(activations, (0, 1), value=1.0) if self.bias else activations

    @staticmethod
    def joined(parts: Sequence["Terms"]) -> "Terms":
        """Join the terms of the same rows from several forward passes, whose gradients add up: positions in turn."""
        if len(parts) == 1:
            return parts[0]
        signals, activations = ([getattr(part, name) for part in parts] for name in ("signals", "activations"))
        return Terms(torch.cat(signals, dim=2), torch.cat(activations, dim=2), parts[0].bias)

    def split(self, rows: int) -> Iterator["Terms"]:
        """Parts of at most `rows` rows."""
        for signals, activations in zip(self.signals.split(rows), self.activations.split(rows), strict=True):
            yield Terms(signals, activations, self.bias)


@runtime_checkable
class Positions(Protocol):
    """What one gradient is made of."""

    def rows(self, terms: Terms) -> Terms:
        """Terms of samples -> terms of gradients."""

    def by_sample(self, projected: Float[Tensor, "rows p"], samples: int) -> Float[Tensor, "b *s p"]:
        """Projected gradients -> those of each sample."""


@dataclass(frozen=True)
class SumOfPositions:
    """One gradient per sample, that of its loss: `[b p]`."""

    def rows(self, terms: Terms) -> Terms:
        """Return the terms unchanged: a row is a sample already."""
        return terms

    def by_sample(self, projected: Float[Tensor, "b p"], samples: int) -> Float[Tensor, "b p"]:
        """Return the projections unchanged: one for each sample."""
        return projected


@dataclass(frozen=True)
class EachPosition:
    """One gradient per position, its own term alone: `[b s p]`, where s counts views x tokens of the layer.

    prefix: positions at the start of a view that are left out (class token, registers); it needs one view per sample.
    """

    prefix: int = 0

    def rows(self, terms: Terms) -> Terms:
        """Make every position a row of its own: `[b g s o] -> [b*s g 1 o]`."""

        def alone(values: Float[Tensor, "b g s f"]) -> Float[Tensor, "rows g 1 f"]:
            return values[:, :, self.prefix :].transpose(1, 2).flatten(0, 1).unsqueeze(2)

        return Terms(alone(terms.signals), alone(terms.activations), terms.bias)

    def by_sample(self, projected: Float[Tensor, "rows p"], samples: int) -> Float[Tensor, "b s p"]:
        """`[b*s p] -> [b s p]`."""
        return projected.unflatten(0, (samples, -1))
