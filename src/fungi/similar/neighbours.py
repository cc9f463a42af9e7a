"""The nearest rows of one query by cosine. Exact; the parts of a feature have equal length, so each counts the same."""

import numpy as np
from jaxtyping import Float32


def nearest(query: Float32[np.ndarray, "1 f"], keys: Float32[np.ndarray, "n f"], count: int) -> list[tuple[int, float]]:
    """(row, cosine) of the `count` rows that are most like the query, best first; equal ones in their order."""
    norms = np.linalg.norm(keys, axis=1) * np.linalg.norm(query)
    scores = (keys @ query[0]) / np.maximum(norms, np.finfo(np.float32).tiny)  # [n f] x [f] -> [n]
    order = np.argsort(-scores, kind="stable")[:count]
    return [(int(row), float(scores[row])) for row in order]
