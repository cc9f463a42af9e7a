"""Compute and check eigenvectors, because a broken LAPACK returns wrong vectors without an error (docs/log.md)."""

import torch
from jaxtyping import Float64
from torch import Tensor

from fungi.errors import FungiError

_TOLERANCE = 1e-8
"""Largest accepted relative error. Correct vectors have an error of at most 1e-12 (size times eps), wrong vectors an
error of about 1."""
_RANDOM_VECTORS = 2
"""Number of random vectors for which a result is checked."""
_CAUSE = (
    "the linear algebra library of this process returns wrong results; another library in this process may have"
    " replaced the routines of torch. No result was saved. Set OMP_NUM_THREADS=1 to avoid it."
)


def checked_eigh(matrix: Float64[Tensor, "size size"]) -> tuple[Float64[Tensor, " size"], Float64[Tensor, "size size"]]:
    """Return ascending eigenvalues and orthonormal eigenvectors of a symmetric matrix.

    Raises FungiError if the result is wrong. With eigenvalues w and eigenvectors v, the check is
    v diag(w) v^T z = matrix z and |v^T z| = |z| for a few random vectors z. The check takes m^2 operations, not m^3.
    """
    try:
        spectrum, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError as error:
        raise _eigenvector_error(matrix, " ".join(str(error).split())) from None
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(len(matrix), _RANDOM_VECTORS, generator=generator, dtype=matrix.dtype).to(matrix.device)
    coordinates = vectors.T @ z
    scale = spectrum.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)
    difference = (vectors @ (spectrum[:, None] * coordinates) - matrix @ z).norm() / (scale * z.norm())
    errors = float(difference), abs(float(coordinates.norm() / z.norm()) - 1)
    if not all(value <= _TOLERANCE for value in errors):  # NaN is also refused
        raise _eigenvector_error(matrix, "relative errors {:.1e} and {:.1e}".format(*errors))
    return spectrum, vectors


def checked_share(part: Float64[Tensor, " r"], total: Float64[Tensor, " size"]) -> float:
    """Return the share of some eigenvalues in the total variance. Raises FungiError unless it is between 0 and 1."""
    share = float(part.sum() / total.sum())
    if not -_TOLERANCE <= share <= 1 + _TOLERANCE:
        raise FungiError(f"PCA kept {share:.3g} of the variance, which is impossible: {_CAUSE}")
    return share


def _eigenvector_error(matrix: Float64[Tensor, "size size"], detail: str) -> FungiError:
    """Return the error for wrong eigenvectors."""
    size = len(matrix)
    return FungiError(f"the eigenvectors of a {size} x {size} matrix for PCA are wrong ({detail}): {_CAUSE}")
