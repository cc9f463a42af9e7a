"""Search with other libraries: (queries, k) -> (scores `[q k]`, rows `[q k]`), nearest key first.

Without a tree, the search is exhaustive. With a tree, FAISS searches inverted lists if there are enough rows (39 per
leaf). ScaNN uses the published tree with asymmetric hashing (4 dimensions per block, threshold 0.2) and reordering. If
the searched leaves contain fewer than k rows, all leaves are searched, so there are always k neighbours.
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

LibrarySearch = Callable[[Float[Tensor, "q d"], int], tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]]
"""A function of queries and k that returns (squared distances or products, rows)."""

_SMALLEST_HASHED = 64
"""Smallest number of rows from which ScaNN can learn its hash."""
_FAISS_ROWS_PER_LEAF, _SCANN_ROWS_PER_LEAF = 39, 16
"""Smallest number of rows per leaf of a tree."""


@dataclass(frozen=True)
class TreeSettings:
    """Settings of approximate search with a tree of clusters (spec dense 3.3).

    leaves: number of clusters. searched: number of leaves that are searched per query. reordered: number of the best
    keys whose products are computed exactly.
    """

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


def faiss_search(
    keys: Float[Tensor, "n d"], metric: Metric, largest_k: int, tree: TreeSettings | None
) -> LibrarySearch:
    """Return a search with FAISS. Without enough rows for the tree, the search is exhaustive.

    largest_k: not used, because FAISS gets the number of neighbours with the queries.
    """
    if tree is None or len(keys) < _FAISS_ROWS_PER_LEAF * tree.leaves:
        index, tree = faiss_index(keys, metric), None
    else:
        faiss, dim = library("faiss"), keys.shape[1]
        leaf_index = faiss_index(keys[:0], metric)
        index = faiss.IndexIVFFlat(leaf_index, dim, tree.leaves, leaf_index.metric_type)
        index.train(keys.numpy())
        index.add(keys.numpy())

    def search(queries: Float[Tensor, "q d"], k: int) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
        if tree is not None:
            index.nprobe = tree.searched
        scores, rows = index.search(queries.numpy(), k)
        is_incomplete = (rows < 0).any(axis=1)  # the searched leaves have fewer than k rows: search all leaves
        if tree is not None and is_incomplete.any():
            index.nprobe = tree.leaves
            scores[is_incomplete], rows[is_incomplete] = index.search(queries.numpy()[is_incomplete], k)
        if (rows < 0).any():
            raise FungiError("faiss returned no neighbours for some queries, because the queries are not finite.")
        return torch.from_numpy(scores), torch.from_numpy(rows)

    return search


def scann_search(
    keys: Float[Tensor, "n d"], metric: Metric, largest_k: int, tree: TreeSettings | None
) -> LibrarySearch:
    """Return a search with ScaNN for at most `largest_k` neighbours."""
    distance = "dot_product" if metric == "inner-product" else "squared_l2"
    builder = library("scann").scann_ops_pybind.builder(keys.numpy(), largest_k, distance)
    leaves = 0  # no tree
    if tree is None or len(keys) < _SMALLEST_HASHED:
        builder = builder.score_brute_force()
    else:
        leaves = max(1, min(tree.leaves, len(keys) // _SCANN_ROWS_PER_LEAF))
        builder = builder.tree(leaves, min(leaves, tree.searched), training_sample_size=len(keys))
        builder = builder.score_ah(4, anisotropic_quantization_threshold=0.2).reorder(max(largest_k, tree.reordered))
    searcher = builder.build()

    def search(queries: Float[Tensor, "q d"], k: int) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
        indices, scores = map(np.array, searcher.search_batched(queries.numpy(), final_num_neighbors=k))
        is_incomplete = np.isnan(scores).any(axis=1)  # as for FAISS; a missing neighbour has row 0
        if leaves and is_incomplete.any():
            indices[is_incomplete], scores[is_incomplete] = searcher.search_batched(
                queries.numpy()[is_incomplete], final_num_neighbors=k, leaves_to_search=leaves
            )
        return torch.from_numpy(scores), torch.from_numpy(indices.astype(np.int64))

    return search


def sklearn_search(
    keys: Float[Tensor, "n d"], metric: Metric, largest_k: int, tree: TreeSettings | None
) -> LibrarySearch:
    """Return a search with scikit-learn. Raises FungiError for the inner product.

    largest_k, tree: not used, because the search is exhaustive and gets the number of neighbours with the queries.
    """
    from sklearn.neighbors import NearestNeighbors

    if metric == "inner-product":
        raise FungiError("scikit-learn does not support search by inner product. Use --search exact, faiss or scann.")
    index = NearestNeighbors(algorithm="brute").fit(keys.numpy())

    def search(queries: Float[Tensor, "q d"], k: int) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
        distances, rows = index.kneighbors(queries.numpy(), k)
        return torch.from_numpy(distances**2), torch.from_numpy(rows)

    return search
