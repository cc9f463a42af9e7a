"""The gradient of a layer's weight as a sum of outer products.

With inputs `a_s` and signals `delta_s = dL/d(output_s)` at positions s (views x tokens of one sample),

    grad_W = sum_s delta_s a_s^T,    grad_b = sum_s delta_s        (spec vision 5).

`Terms` contains both factors of every position. With `SumOfPositions`, a gradient is the sum over all positions of a
sample. With `EachPosition`, every position has a gradient (dense features, spec dense 4.3). In both cases, a
projector maps the terms to one row per gradient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from fungi.runtime.products import products


@dataclass(frozen=True)
class Terms:
    """The outer products whose sums are the gradients of b rows (samples, or single positions of samples).

    Axis s: positions. Axis g: groups of a convolution (1 for other layers). The gradients of the groups are
    concatenated along the outputs.

    bias: append the gradient of the bias (the sum of the signals) as the last column of the gradient.
    """

    signals: Float[Tensor, "b g s o"]
    activations: Float[Tensor, "b g s i"]
    bias: bool

    def __len__(self) -> int:
        return len(self.signals)

    def gradients(self) -> Float32[Tensor, "b o i_and_bias"]:
        """Return the gradients in float32, with the bias as the last column: `[b g o s] x [b g s i] -> [b g*o i + 1]`.

        This is one matrix product per row. Gradients per view or per token are not computed.
        """
        signals, activations = self.signals.flatten(0, 1), self.activations.flatten(0, 1)
        inputs = activations.shape[2]
        shape = (len(signals), signals.shape[2], inputs + int(self.bias))
        gradient = torch.empty(shape, dtype=torch.float32, device=signals.device)
        products(signals.transpose(1, 2), activations, out=gradient[:, :, :inputs])
        if self.bias:
            torch.sum(signals, dim=1, dtype=torch.float32, out=gradient[:, :, inputs])
        return gradient.unflatten(0, (len(self), -1)).flatten(1, 2)

    def extended_activations(self) -> Float[Tensor, "b g s i_and_bias"]:
        """Return the activations in their dtype, with a 1 appended for the bias."""
        return torch.nn.functional.pad(self.activations, (0, 1), value=1.0) if self.bias else self.activations

    @staticmethod
    def concatenate_positions(parts: Sequence["Terms"]) -> "Terms":
        """Concatenate the positions of the same rows from several forward passes. This adds up their gradients."""
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
    """Whether a gradient belongs to a sample (the sum over its positions) or to a single position."""

    def rows(self, terms: Terms) -> Terms:
        """Return the terms of samples `[b ...]` as terms with one row per gradient."""

    def by_sample(self, projected: Float[Tensor, "rows p"], samples: int) -> Float[Tensor, "b *s p"]:
        """Return projected gradients, grouped by sample."""


@dataclass(frozen=True)
class SumOfPositions:
    """One gradient per sample: `[b p]`."""

    def rows(self, terms: Terms) -> Terms:
        """Return the terms unchanged: a row is a sample."""
        return terms

    def by_sample(self, projected: Float[Tensor, "b p"], samples: int) -> Float[Tensor, "b p"]:
        """Return the projected gradients unchanged: a row is a sample."""
        return projected


@dataclass(frozen=True)
class EachPosition:
    """One gradient per position: `[b s p]`, s = views x tokens of the layer.

    prefix: number of positions at the start of a view that are skipped (class token, registers). With a prefix, a
    sample has only one view.
    """

    prefix: int = 0

    def rows(self, terms: Terms) -> Terms:
        """Return one row per position: `[b g s o] -> [b*s g 1 o]`."""

        def as_rows(values: Float[Tensor, "b g s f"]) -> Float[Tensor, "rows g 1 f"]:
            return values[:, :, self.prefix :].transpose(1, 2).flatten(0, 1).unsqueeze(2)

        return Terms(as_rows(terms.signals), as_rows(terms.activations), terms.bias)

    def by_sample(self, projected: Float[Tensor, "rows p"], samples: int) -> Float[Tensor, "b s p"]:
        """Return the rows of each sample: `[b*s p] -> [b s p]`."""
        return projected.unflatten(0, (samples, -1))
