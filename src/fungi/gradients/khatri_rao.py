"""A projection for gradients of low rank: row r of R is the outer product of two rows of signs, `R_r = S_r T_r^T`.

S is `[p o]` and T is `[p i]`, where i includes the bias. The gradient `sum_s delta_s a_s^T` is projected without
computing it; `*` is elementwise:

    R vec(sum_s delta_s a_s^T) = sum_s (S delta_s) * (T a_s).

For a layer with d inputs and d outputs, this takes 2 p d operations per term instead of p d^2, and two matrices of
about p x d entries instead of one of p x d (d + 1).

**Expectation.** Signs are independent, so `E s s^T = I`, `E t t^T = I`, and for gradients X, Y

    E (s^T X t)(s^T Y t) = E t^T X^T (s s^T) Y t = tr(X^T Y) = <X, Y>.

Inner products over p rows, divided by p, are therefore unbiased, as with the dense matrix of signs.

**Variance** of the product for one row; for the mean over p rows, divide this variance by p. Let
`f(x, y) = E (s.x)^2 (s.y)^2` for a row of signs. Fourth moments are zero unless the indices form pairs, so

    f(x, y) = |x|^2 |y|^2 + 2 <x, y>^2 - 2 sum x^2 y^2.

For gradients of rank one, X = d a^T and Y = e b^T, the expectation factors:

    Var = f(d, e) f(a, b) - <d, e>^2 <a, b>^2.

The dense matrix has a variance of at most `|X|^2 |Y|^2 + <X, Y>^2`. For long vectors, in units of `|X|^2 |Y|^2`, the
variances are:

| | khatri-rao | dense |
|---|---|---|
| orthogonal signals, orthogonal activations | 1 | 1 |
| equal signals, orthogonal activations (or the other way round) | 3 | 1 |
| equal gradients: the length of a feature | 8 | 2 |

For a single term, the standard deviation of `|X|^2` is at most sqrt(8 / p), twice as large as with the dense matrix.
For a sum of many different terms (a gradient of high rank), `Var |X|^2` decreases to 2, as with the dense matrix: in
`E |X t|^4 = |X|^4 + 2 |X^T X|^2 - ...`, the ratio `|X^T X| / |X|^2` is small. The standard deviations of both matrices
decrease as 1 / sqrt(p).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.gradients.projection import DenseProjector, ProjectionMatrix, Projector
from fungi.gradients.terms import Terms
from fungi.runtime.products import product


class KhatriRaoProjector:
    """Projector that uses the two small matrices. It does not compute the dense matrix or a gradient."""

    def __init__(self, matrix: ProjectionMatrix, device: torch.device, dtype: torch.dtype) -> None:
        self.matrix = matrix
        self._outputs, self._inputs = (factor.to(device, dtype) for factor in matrix.factors())  # [p o], [p i]
        self._scaling = matrix.projection_dim**-0.5

    @property
    def entries(self) -> Float[Tensor, "p g"]:
        """The dense matrix. It is computed again at each access."""
        return torch.einsum("po,pi->poi", self._outputs, self._inputs).flatten(1)

    def contract(self, terms: Terms) -> Float[Tensor, "b p"]:
        """Return `sum_s (S delta_s) * (T a_s)`. Each group of a convolution has its own columns of S."""
        columns = self._outputs.chunk(terms.signals.shape[1], dim=1)
        products = [self._product(terms.signals[:, group], factor) for group, factor in enumerate(columns)]
        signals = torch.stack(products, dim=1)
        activations = self._product(terms.extended_activations(), self._inputs)
        return (signals * activations).sum(dim=(1, 2))  # [b g s p] -> [b p]

    def project(self, contracted: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Multiply by the factor 1/sqrt(p)."""
        return contracted * self._scaling

    def _product(self, values: Float[Tensor, "*n i"], factor: Float[Tensor, "p i"]) -> Float[Tensor, "*n p"]:
        """Return `values @ factor^T` in float32.

        If the values have another dtype than the factor, each row of values is scaled to unit norm and rounded to the
        dtype of the factor. The product is then scaled back.
        """
        if factor.dtype == torch.float32:
            return values.float() @ factor.T
        rows = values.flatten(0, -2)
        if rows.dtype == factor.dtype:
            return product(rows, factor.T).reshape(*values.shape[:-1], -1)
        norms = rows.float().norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        products = product((rows / norms).to(factor.dtype), factor.T) * norms
        return products.reshape(*values.shape[:-1], -1)


def make_projector(matrix: ProjectionMatrix, device: torch.device, dtype: torch.dtype) -> Projector:
    """Return the projector for the kind of a matrix."""
    kind = KhatriRaoProjector if matrix.kind == "khatri-rao" else DenseProjector
    return kind(matrix, device, dtype)
