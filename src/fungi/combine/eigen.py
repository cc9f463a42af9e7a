"""Eigenvectors with a check: a broken LAPACK returns wrong vectors without an error (docs/log.md)."""

import torch
from jaxtyping import Float64
from torch import Tensor

from fungi.errors import FungiError

_TOLERANCE = 1e-8
"""Largest accepted relative error. Correct vectors have at most 1e-12 (size times eps), wrong vectors about 1."""
_PROBES = 2


def checked_eigh(matrix: Float64[Tensor, "m m"]) -> tuple[Float64[Tensor, " m"], Float64[Tensor, "m m"]]:
    """Return ascending eigenvalues and orthonormal eigenvectors of a symmetric matrix.

    Raises FungiError if they are wrong. The check is v diag(w) v^T z = matrix z and |v^T z| = |z| for a few random
    vectors z, which costs m^2, not m^3.
    """
    try:
        spectrum, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError as error:
        raise _broken(matrix, " ".join(str(error).split())) from None
    probes = torch.randn(len(matrix), _PROBES, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    probes = probes.to(matrix.device)
    coordinates = vectors.T @ probes  # [m probes]
    scale = spectrum.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)
    residual = (vectors @ (spectrum[:, None] * coordinates) - matrix @ probes).norm() / (scale * probes.norm())
    errors = float(residual), abs(float(coordinates.norm() / probes.norm()) - 1)
    if not all(value <= _TOLERANCE for value in errors):  # also refuses NaN
        raise _broken(matrix, "relative errors {:.1e} and {:.1e}".format(*errors))
    return spectrum, vectors


def checked_share(part: Float64[Tensor, " r"], total: Float64[Tensor, " m"]) -> float:
    """Return the share of variance in some eigenvalues. Raises FungiError unless it is between 0 and 1."""
    share = float(part.sum() / total.sum())
    if not -_TOLERANCE <= share <= 1 + _TOLERANCE:
        raise FungiError(f"PCA kept {share:.3g} of the variance, which is impossible: {_CAUSE}")
    return share


_CAUSE = (
    "the linear algebra library of this process returns wrong results; another library in this process may have"
    " replaced the routines of torch. No result was saved. Set OMP_NUM_THREADS=1 to avoid it."
)


def _broken(matrix: Float64[Tensor, "m m"], what: str) -> FungiError:
    size = len(matrix)
    return FungiError(f"the eigenvectors of a {size} x {size} matrix for PCA are wrong ({what}): {_CAUSE}")
