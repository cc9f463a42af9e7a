"""Indexes in faiss, and finding the nearest images."""

from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fungi.combine.source import l2_normalized
from fungi.errors import FungiError, unknown_name

Metric = Literal["cosine", "euclidean"]


def faiss_index(features: Float[Tensor, "n f"], metric: Metric = "cosine") -> Any:
    """An exact faiss index of features; search it with `index.search(queries_for(features, metric), k)`.

    metric: `cosine` - inner product of rows of length one; `euclidean` - as the kNN evaluation measures.
    FungiError where faiss is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise FungiError("faiss is not installed. Run: pip install faiss-cpu.") from None
    if metric not in get_args(Metric):
        raise unknown_name("metric", metric, get_args(Metric))
    index = (faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2)(features.shape[1])
    index.add(queries_for(features, metric))
    return index


def queries_for(features: Float[Tensor, "q f"], metric: Metric = "cosine") -> Float[np.ndarray, "q f"]:
    """Features as an index of this metric wants them."""
    rows = features.detach().float().cpu()
    return (l2_normalized(rows) if metric == "cosine" else rows).numpy()


def nearest_images(index: Any, features: Float[Tensor, "q f"], k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores, rows) `[q k]` of the nearest entries of an index of `faiss_index`, best first."""
    import faiss

    metric: Metric = "cosine" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "euclidean"
    scores, rows = index.search(queries_for(features, metric), min(k, index.ntotal))
    return torch.from_numpy(scores), torch.from_numpy(rows)
