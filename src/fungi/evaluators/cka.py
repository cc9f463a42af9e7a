"""Linear centred kernel alignment: similarity of two features of the same rows, invariant to rotation and scale.

    CKA(x, y) = |x^T y|^2 / (|x^T x| |y^T y|),   x [n f], y [n g] centred, Frobenius norms

All three products are sub-blocks of one Gram matrix. One pass over the data gives the CKA of every pair.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


def cka_matrix(gram: Float64[Tensor, "f f"], sizes: Mapping[str, int]) -> Float[np.ndarray, "m m"]:
    """Return the CKA of every pair of features. sizes: feature -> number of columns, in the order of the matrix."""
    norms = [
        [float(torch.linalg.matrix_norm(block)) for block in rows.split(list(sizes.values()), dim=1)]
        for rows in gram.split(list(sizes.values()), dim=0)
    ]
    cross = np.array(norms)
    own = np.diag(cross)
    return cross**2 / np.outer(own, own)
