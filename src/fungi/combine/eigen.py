"""Eigenvectors that are checked before they are used: a broken LAPACK gives noise without a word (docs/log.md)."""

import torch
from jaxtyping import Float64
from torch import Tensor

from fungi.errors import FungiError

_TOLERANCE = 1e-8
"""Relative error that is refused. Right vectors are off by 1e-12 at most (size times eps), wrong ones by about 1."""
_PROBES = 2


def checked_eigh(matrix: Float64[Tensor, "m m"]) -> tuple[Float64[Tensor, " m"], Float64[Tensor, "m m"]]:
    """Return ascending eigenvalues and orthonormal eigenvectors of a symmetric matrix. FungiError where they are wrong.

    Checked on a few random vectors z: v diag(w) v^T z = matrix z and |v^T z| = |z|, which costs m^2, not m^3.
    """
    try:
        spectrum, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError as error:
        raise _broken(matrix, " ".join(str(error).split())) from None
    probes = torch.randn(len(matrix), _PROBES, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    probes = probes.to(matrix.device)
    turned = vectors.T @ probes  # [m probes]
    scale = spectrum.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)
    rebuilt = (vectors @ (spectrum[:, None] * turned) - matrix @ probes).norm() / (scale * probes.norm())
    deviations = float(rebuilt), abs(float(turned.norm() / probes.norm()) - 1)
    if not all(value <= _TOLERANCE for value in deviations):  # NaN is wrong, too
        raise _broken(matrix, "relative errors {:.1e} and {:.1e}".format(*deviations))
    return spectrum, vectors


def checked_share(part: Float64[Tensor, " r"], total: Float64[Tensor, " m"]) -> float:
    """Return the share of variance in some eigenvalues. FungiError where it lies outside 0 to 1, beyond rounding."""
    share = float(part.sum() / total.sum())
    if not -_TOLERANCE <= share <= 1 + _TOLERANCE:
        raise FungiError(f"PCA kept {share:.3g} of the variance, which can't be: {_CAUSE}")
    return share


_CAUSE = (
    "the linear algebra library of this process computes noise; another library that was loaded beside torch may have"
    " taken the place of its routines. Nothing was kept. OMP_NUM_THREADS=1 avoids it."
)


def _broken(matrix: Float64[Tensor, "m m"], what: str) -> FungiError:
    size = len(matrix)
    return FungiError(f"the eigenvectors of a {size} x {size} matrix for PCA are wrong ({what}): {_CAUSE}")
