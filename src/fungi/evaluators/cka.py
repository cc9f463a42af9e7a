"""Linear centred kernel alignment (CKA): similarity of two features of the same rows, invariant to rotation and scale.

    CKA(x, y) = |x^T y|^2 / (|x^T x| |y^T y|)

The features x `[n f]` and y `[n g]` are centred, and the norms are Frobenius norms. All three products are submatrices
of one Gram matrix, so one pass over the data is enough for the CKA of all pairs of features.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


def cka_matrix(gram: Float64[Tensor, "f f"], sizes: Mapping[str, int]) -> Float[np.ndarray, "features features"]:
    """Return the CKA of all pairs of features. sizes: feature -> number of columns, in the order of the matrix."""
    widths = list(sizes.values())
    products = [rows.split(widths, dim=1) for rows in gram.split(widths, dim=0)]  # products[i][j] = x_i^T x_j
    norms = np.array([[float(torch.linalg.matrix_norm(product)) for product in row] for row in products])
    own_norms = np.diag(norms)
    return norms**2 / np.outer(own_norms, own_norms)
