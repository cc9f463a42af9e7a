"""Neighbours among stored keys (a bank of patches), by inner product: exact in tiles, or with an index made once.

Memory: exact search holds one tile of the bank and its products with one tile of queries, together at most
`tile_bytes`, whatever the size of the bank; FAISS and ScaNN hold all of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fungi.errors import FungiError
from fungi.search.flat import faiss_index, library
from fungi.search.neighbours import Found, StoredKeys

Backend = Literal["exact", "faiss", "scann"]

_QUERIES_AT_ONCE = 1024
_SMALLEST_HASHED = 64  # rows from which on ScaNN's hash can be trained
_GROUP = 32  # columns whose largest product stands for them


@dataclass(frozen=True)
class TreeSettings:
    """Tree and hash of the approximate back-ends (spec dense 3.3)."""

    leaves: int = 512
    searched: int = 32
    reordered: int = 120


DATA_EFFICIENT_TREE = TreeSettings(searched=256, reordered=1800)


@runtime_checkable
class Search(Protocol):
    """Queries `[q d]` -> their k best rows of a bank."""

    def __call__(self, queries: Float[Tensor, "q d"], k: int) -> Found:
        """Search; results are on the device of the queries."""
        ...


class ExactSearch:
    """Every row against every query, tile by tile.

    tile_bytes: bound on what is held besides queries and results: a tile of rows as stored and in float32, and the
    products of 1,024 queries with it.
    """

    def __init__(self, bank: StoredKeys, device: torch.device, tile_bytes: int = 1 << 28) -> None:
        self._bank, self._device = bank, device
        per_row = bank.dim * 8 + _QUERIES_AT_ONCE * 4 * 2
        self._tile = max(_GROUP, min(bank.rows, tile_bytes // per_row))

    def __call__(self, queries: Float[Tensor, "q d"], k: int) -> Found:
        """Search; FungiError where the bank has fewer rows than k."""
        require_rows(self._bank.rows, k)
        tiles = queries.to(self._device).float().split(_QUERIES_AT_ONCE)
        best: list[Found | None] = [None] * len(tiles)
        for start, window in self._bank.windows(self._tile):
            block = torch.from_numpy(window).to(self._device).float()
            for number, tile in enumerate(tiles):
                scores, rows = _largest(tile @ block.T, k)
                best[number] = _merged(best[number], Found(scores, rows + start), k)
        scores, rows = (torch.cat(column) for column in zip(*(found for found in best if found), strict=True))
        return Found(scores.to(queries.device), rows.to(queries.device))


def require_rows(rows: int, k: int) -> None:
    """FungiError where a bank is too small for k neighbours."""
    if rows < k:
        raise FungiError(
            f"{k} neighbours were asked for, but the bank has {rows} patches. Use --neighbours, or a larger "
            "--memory-size."
        )


def _largest(products: Float[Tensor, "q n"], k: int) -> Found:
    """The k largest of each row, exactly: they lie in the k groups of columns with the largest maxima."""
    count, width = products.shape
    whole = width // _GROUP * _GROUP
    if whole < 4 * k * _GROUP:
        found = products.topk(min(k, width), dim=1)
        return Found(found.values, found.indices)
    groups = products[:, :whole].unflatten(1, (-1, _GROUP))  # [q g 32]
    chosen = groups.amax(dim=2).topk(k, dim=1).indices  # [q k]
    columns = (chosen.unsqueeze(2) * _GROUP + torch.arange(_GROUP, device=products.device)).flatten(1)
    rest = torch.arange(whole, width, device=products.device).expand(count, -1)
    columns = torch.cat([columns, rest], dim=1)
    found = products.gather(1, columns).topk(k, dim=1)
    return Found(found.values, columns.gather(1, found.indices))


def _merged(earlier: Found | None, later: Found, k: int) -> Found:
    if earlier is None:
        return later
    scores, rows = (torch.cat(pair, dim=1) for pair in zip(earlier, later, strict=True))
    order = scores.topk(min(k, scores.shape[1]), dim=1)
    return Found(order.values, rows.gather(1, order.indices))


def _all_rows(bank: StoredKeys) -> Float[np.ndarray, "n d"]:
    ((_, rows),) = bank.windows(bank.rows)
    return rows.astype(np.float32)


class FaissSearch:
    """FAISS: inverted lists where there are rows enough to fill them (39 per leaf), else flat, which is exact."""

    def __init__(self, bank: StoredKeys, tree: TreeSettings) -> None:
        faiss, rows = library("faiss"), _all_rows(bank)
        if bank.rows < 39 * tree.leaves:
            self._index: Any = faiss_index(torch.from_numpy(rows), "inner-product")
            return
        leaves = faiss.IndexFlatIP(bank.dim)
        self._index = faiss.IndexIVFFlat(leaves, bank.dim, tree.leaves, faiss.METRIC_INNER_PRODUCT)
        self._index.train(rows)
        self._index.nprobe = tree.searched
        self._index.add(rows)

    def __call__(self, queries: Float[Tensor, "q d"], k: int) -> Found:
        """Search; FungiError where the bank has fewer rows than k."""
        require_rows(self._index.ntotal, k)
        scores, rows = self._index.search(queries.float().cpu().numpy(), k)
        rows = np.maximum(rows, 0)  # what it did not find has the smallest of scores, hence no weight
        return Found(torch.from_numpy(scores).to(queries.device), torch.from_numpy(rows).to(queries.device))


class ScannSearch:
    """ScaNN with the published tree, asymmetric hashing (4 dimensions per block, threshold 0.2) and reordering."""

    def __init__(self, bank: StoredKeys, tree: TreeSettings, k: int) -> None:
        scann, rows = library("scann"), _all_rows(bank)
        self._rows, leaves = bank.rows, max(1, min(tree.leaves, bank.rows // 16))
        builder = scann.scann_ops_pybind.builder(rows, k, "dot_product")
        if bank.rows < _SMALLEST_HASHED:
            builder = builder.score_brute_force()
        else:
            builder = builder.tree(leaves, min(leaves, tree.searched), training_sample_size=bank.rows)
            builder = builder.score_ah(4, anisotropic_quantization_threshold=0.2).reorder(max(k, tree.reordered))
        self._searcher = builder.build()

    def __call__(self, queries: Float[Tensor, "q d"], k: int) -> Found:
        """Search; FungiError where the bank has fewer rows than k."""
        require_rows(self._rows, k)
        rows, scores = self._searcher.search_batched(queries.float().cpu().numpy(), final_num_neighbors=k)
        found = torch.from_numpy(np.asarray(scores)), torch.from_numpy(rows.astype(np.int64))
        return Found(found[0].to(queries.device), found[1].to(queries.device))


def make_search(
    backend: Backend, bank: StoredKeys, k: int, device: torch.device, *, tree: TreeSettings, tile_bytes: int
) -> Search:
    """The back-end of that name over a bank."""
    makers: dict[Backend, Callable[[], Search]] = {
        "exact": lambda: ExactSearch(bank, device, tile_bytes),
        "faiss": lambda: FaissSearch(bank, tree),
        "scann": lambda: ScannSearch(bank, tree, k),
    }
    return makers[backend]()
