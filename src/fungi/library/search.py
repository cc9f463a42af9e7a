"""Build faiss indexes of features, and search for the nearest images."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fungi.combine.source import l2_normalized
from fungi.errors import FungiError, unknown_name
from fungi.library.arguments import checked_features, checked_whole_number
from fungi.search import libraries

Metric = Literal["cosine", "euclidean"]


def faiss_index(features: Any, metric: Metric = "cosine") -> Any:
    """Return an exact faiss index of features `[n, f]`. Search it with `nearest_images`, or with faiss:
    `index.search(queries_for(features, metric), k)`.

    metric: `cosine`, the inner product of rows of length 1, or `euclidean`, the distance of the kNN evaluation.
    Raises FungiError if faiss is not installed.
    """
    if metric not in get_args(Metric):
        raise unknown_name("metric", metric, get_args(Metric))
    checked_features(features)
    keys = torch.from_numpy(queries_for(features, metric))
    return libraries.faiss_index(keys, "inner-product" if metric == "cosine" else "euclidean")


def queries_for(features: Float[Tensor, "q f"], metric: Metric = "cosine") -> Float[np.ndarray, "q f"]:
    """Return features in the form that an index with this metric needs: float32, with rows of length 1 for `cosine`."""
    rows = features.detach().float().cpu()
    return (l2_normalized(rows) if metric == "cosine" else rows).numpy()


def nearest_images(index: Any, features: Any, k: int) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """Return (scores, rows) of the k entries of a `faiss_index` that are nearest to features `[q, f]`, best first."""
    import faiss

    checked_whole_number("k", k, 1)
    if checked_features(features).shape[1] != index.d:
        raise FungiError(
            f"the features have {features.shape[1]} entries, but the features in the index have {index.d}."
        )
    metric: Metric = "cosine" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "euclidean"
    scores, rows = index.search(queries_for(features, metric), min(k, index.ntotal))
    return torch.from_numpy(scores), torch.from_numpy(rows)
