"""Linear centred kernel alignment: how alike two features of the same rows are, whatever their rotation and scale.

    CKA(x, y) = |x^T y|^2 / (|x^T x| |y^T y|),   x [n f], y [n g] centred, Frobenius norms

All three are sub-blocks of one Gram matrix, so that one pass over the data gives every pair.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


def cka_matrix(gram: Float64[Tensor, "f f"], sizes: Mapping[str, int]) -> Float[np.ndarray, "m m"]:
    """CKA of every pair of features, from their centred Gram matrix; sizes: feature -> columns, in the Gram's order."""
    norms = [
        [float(torch.linalg.matrix_norm(block)) for block in rows.split(list(sizes.values()), dim=1)]
        for rows in gram.split(list(sizes.values()), dim=0)
    ]
    cross = np.array(norms)
    own = np.diag(cross)
    return cross**2 / np.outer(own, own)
