"""Search with other libraries: (queries, k) -> (scores `[q k]`, rows `[q k]`), nearest key first.

Search is exhaustive unless it is passed a tree. With a tree, FAISS searches inverted lists if there are enough rows (39
per leaf). ScaNN uses the published tree with asymmetric hashing (4 dimensions per block, threshold 0.2) and reordering.
If the searched leaves contain fewer than k rows, all leaves are searched, so there are always k neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fungi.errors import FungiError
from fungi.search import Metric

Answer = Callable[[Float[Tensor, "q d"], int], tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]]
"""Queries and k -> squared distances or products, and rows."""

_SMALLEST_HASHED = 64  # smallest number of rows for training ScaNN's hash


@dataclass(frozen=True)
class TreeSettings:
    """Tree and hash of the approximate searches (spec dense 3.3)."""

    leaves: int = 512
    searched: int = 32
    reordered: int = 120


def library(name: Literal["faiss", "scann"]) -> Any:
    """Return the module of a search library. Raises FungiError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        package = {"faiss": "faiss-cpu"}.get(name, name)
        raise FungiError(
            f"{name} can't be used ({error}). Run: pip install {package}, or use --search exact."
        ) from None


def faiss_index(keys: Float[Tensor, "n d"], metric: Metric) -> Any:
    """Return the flat index of FAISS. Raises FungiError if faiss is not installed."""
    faiss = library("faiss")
    index = (faiss.IndexFlatIP if metric == "inner-product" else faiss.IndexFlatL2)(keys.shape[1])
    index.add(keys.numpy())
    return index


def faiss_search(keys: Float[Tensor, "n d"], metric: Metric, k: int, tree: TreeSettings | None) -> Answer:
    """Return a search with FAISS."""
    if tree is None or len(keys) < 39 * tree.leaves:
        index, tree = faiss_index(keys, metric), None
    else:
        faiss, dim = library("faiss"), keys.shape[1]
        leaves = faiss_index(keys[:0], metric)
        index = faiss.IndexIVFFlat(leaves, dim, tree.leaves, leaves.metric_type)
        index.train(keys.numpy())
        index.add(keys.numpy())

    def answer(queries: Float[Tensor, "q d"], k: int) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
        if tree is not None:
            index.nprobe = tree.searched
        scores, rows = index.search(queries.numpy(), k)
        short = (rows < 0).any(axis=1)  # the searched leaves have fewer than k rows: search all leaves
        if tree is not None and short.any():
            index.nprobe = tree.leaves
            scores[short], rows[short] = index.search(queries.numpy()[short], k)
        if (rows < 0).any():
            raise FungiError("faiss returned no neighbours of some queries, because they are not finite.")
        return torch.from_numpy(scores), torch.from_numpy(rows)

    return answer


def scann_search(keys: Float[Tensor, "n d"], metric: Metric, k: int, tree: TreeSettings | None) -> Answer:
    """Return a search with ScaNN for at most `k` neighbours."""
    distance = "dot_product" if metric == "inner-product" else "squared_l2"
    builder = library("scann").scann_ops_pybind.builder(keys.numpy(), k, distance)
    leaves = 0 if tree is None or len(keys) < _SMALLEST_HASHED else max(1, min(tree.leaves, len(keys) // 16))
    if tree is None or leaves == 0:
        builder = builder.score_brute_force()
    else:
        builder = builder.tree(leaves, min(leaves, tree.searched), training_sample_size=len(keys))
        builder = builder.score_ah(4, anisotropic_quantization_threshold=0.2).reorder(max(k, tree.reordered))
    searcher = builder.build()

    def answer(queries: Float[Tensor, "q d"], k: int) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
        indices, scores = map(np.array, searcher.search_batched(queries.numpy(), final_num_neighbors=k))
        short = np.isnan(scores).any(axis=1)  # as for FAISS; a missing neighbour has row 0
        if leaves and short.any():
            indices[short], scores[short] = searcher.search_batched(
                queries.numpy()[short], final_num_neighbors=k, leaves_to_search=leaves
            )
        return torch.from_numpy(scores), torch.from_numpy(indices.astype(np.int64))

    return answer


def sklearn_search(keys: Float[Tensor, "n d"], metric: Metric, k: int, tree: TreeSettings | None) -> Answer:
    """Return a search with scikit-learn, without a tree. Raises FungiError for the inner product, which it lacks."""
    from sklearn.neighbors import NearestNeighbors

    if metric == "inner-product":
        raise FungiError("scikit-learn does not support search by inner product. Use --search exact, faiss or scann.")
    search = NearestNeighbors(algorithm="brute").fit(keys.numpy())

    def answer(queries: Float[Tensor, "q d"], k: int) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
        distances, rows = search.kneighbors(queries.numpy(), k)
        return torch.from_numpy(distances**2), torch.from_numpy(rows)

    return answer
