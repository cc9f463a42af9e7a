"""Exhaustive search by other libraries: rows of keys, queries -> (scores `[q k]`, rows `[q k]`), best first."""

from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fungi.errors import FungiError
from fungi.search import Metric

Scored = tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]
"""Squared distances or products, and rows."""


def library(name: Literal["faiss", "scann"]) -> Any:
    """A library that searches; FungiError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        package = {"faiss": "faiss-cpu"}.get(name, name)
        raise FungiError(f"{name} can't be used ({error}). Run: pip install {package}, or search without it.") from None


def faiss_index(keys: Float[Tensor, "n d"], metric: Metric) -> Any:
    """FAISS's flat index; FungiError where faiss is not installed."""
    faiss = library("faiss")
    index = (faiss.IndexFlatIP if metric == "inner-product" else faiss.IndexFlatL2)(keys.shape[1])
    index.add(keys.numpy())
    return index


def faiss_search(keys: Float[Tensor, "n d"], queries: Float[Tensor, "q d"], k: int, metric: Metric) -> Scored:
    """By FAISS."""
    scores, found = faiss_index(keys, metric).search(queries.numpy(), k)
    return torch.from_numpy(scores), torch.from_numpy(found)


def scann_search(keys: Float[Tensor, "n d"], queries: Float[Tensor, "q d"], k: int, metric: Metric) -> Scored:
    """By ScaNN's exhaustive mode: its quantised modes would only be approximate."""
    measure = "dot_product" if metric == "inner-product" else "squared_l2"
    builder = library("scann").scann_ops_pybind.builder(keys.numpy(), k, measure)
    found, scores = builder.score_brute_force().build().search_batched(queries.numpy())
    return torch.from_numpy(np.asarray(scores)), torch.from_numpy(found.astype(np.int64))


def sklearn_search(keys: Float[Tensor, "n d"], queries: Float[Tensor, "q d"], k: int, metric: Metric) -> Scored:
    """By scikit-learn, which knows no inner product: FungiError for that."""
    from sklearn.neighbors import NearestNeighbors

    if metric == "inner-product":
        raise FungiError("scikit-learn does not search by inner product. Use torch, faiss or scann.")
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(keys.numpy())
    distances, found = search.kneighbors(queries.numpy())
    return torch.from_numpy(distances**2), torch.from_numpy(found)
