"""The table of search back-ends. A back-end prepares the keys once, and then returns rankings and rows for queries.

The *ranking* of a key is the number by which the keys of a query are sorted. For a query a and a key b, it is the
product a.b (inner product, descending) or |b|^2 - 2 a.b (euclidean, ascending). The euclidean ranking is the squared
distance without |a|^2. This term is the same for all keys of a query, and adding it would lose precision.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fungi.runtime.precision import full_precision
from fungi.runtime.products import linear
from fungi.search import Backend, Metric
from fungi.search.libraries import LibrarySearch, TreeSettings, faiss_search, scann_search, sklearn_search
from fungi.search.neighbours import Keys

QUERIES_PER_TILE = 512
"""Number of queries in a tile. A tile is the matrix of rankings of these queries and of the keys of one block."""
GROUP = 32
"""Number of columns of a tile in a group. Only the groups with the best entries are searched in full."""

Ranked = tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]
"""Rankings and rows, nearest key first."""
Search = Callable[[Float[Tensor, "q d"], int], Ranked]
"""A function of queries and k that returns the k nearest keys of each query, or all keys if there are fewer."""


def torch_search(keys: Keys, metric: Metric, largest_k: int, tree: TreeSettings | None = None) -> Search:
    """Return an exhaustive search in full float32, tile by tile, on the device of keys and queries.

    largest_k, tree: not used here; other back-ends need them to prepare the keys.
    """
    largest = metric == "inner-product"

    @full_precision()
    def search(queries: Float[Tensor, "q d"], k: int) -> Ranked:
        # Update the best keys after every tile. Keeping the results of all tiles would take more memory, and would
        # fragment it, because the results would lie between large blocks that are freed.
        best = queries.new_full((len(queries), k), -torch.inf if largest else torch.inf)
        rows = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
        key_count = 0
        for span, block in keys():
            squares = None if largest else block.square().sum(dim=1)
            by_tile = (tensor.split(QUERIES_PER_TILE) for tensor in (queries, best, rows))
            for tile_queries, tile_best, tile_rows in zip(*by_tile, strict=True):
                tile = linear(tile_queries if largest else -2 * tile_queries, block, squares)
                ranking, columns = _best(tile, k, largest)
                _merge(tile_best, tile_rows, ranking, columns + span.start, largest)
            key_count += len(block)
            del block  # free its memory before the next block is read
        assert key_count, "a search needs keys"
        return best[:, :key_count], rows[:, :key_count]

    return search


def _merge(
    ranking: Float[Tensor, "q k"],
    rows: Int64[Tensor, "q k"],
    new_ranking: Float[Tensor, "q n"],
    new_rows: Int64[Tensor, "q n"],
    largest: bool,
) -> None:
    """Update the ranking and the rows of the best keys in place with those of another block."""
    best = torch.cat([ranking, new_ranking], dim=1).topk(ranking.shape[1], dim=1, largest=largest)
    ranking.copy_(best.values)
    rows.copy_(torch.cat([rows, new_rows], dim=1).gather(1, best.indices))


def squared_lengths(rows: Float[Tensor, "q d"]) -> Float[Tensor, "q 1"]:
    """Return |a|^2 of each row, in float64."""
    return rows.double().square().sum(dim=1, keepdim=True)


def _best(ranking: Float[Tensor, "q b"], k: int, largest: bool) -> Ranked:
    """Return the k best entries of each row and their columns; all entries if there are fewer than k.

    largest: whether the largest entries are the best. For speed, this searches only the k groups of columns with the
    best maxima or minima. These groups contain the k best entries.
    """
    width = ranking.shape[1]
    grouped = width // GROUP * GROUP
    if grouped < 4 * k * GROUP:  # with few groups, a search of all columns is faster
        top = ranking.topk(min(k, width), dim=1, largest=largest)
        return top.values, top.indices
    groups = ranking[:, :grouped].unflatten(1, (-1, GROUP))  # [q g 32]
    extremes = groups.amax(dim=2) if largest else groups.amin(dim=2)
    best_groups = extremes.topk(k, dim=1, largest=largest).indices  # [q k]
    candidates = groups.gather(1, best_groups.unsqueeze(2).expand(-1, -1, GROUP)).flatten(1)  # [q k 32] -> [q k*32]
    top = torch.cat([candidates, ranking[:, grouped:]], dim=1).topk(k, dim=1, largest=largest)
    is_in_group = top.indices < k * GROUP  # other entries are in the last columns, which form no group
    group = best_groups.gather(1, (top.indices // GROUP).clamp_max(k - 1))
    columns = torch.where(is_in_group, group * GROUP + top.indices % GROUP, top.indices + (grouped - k * GROUP))
    return top.values, columns


def _library_backend(build_search: Callable[..., LibrarySearch]) -> Callable[..., Search]:
    """Return a back-end that uses another library. The library keeps all keys in main memory."""

    def prepare(keys: Keys, metric: Metric, largest_k: int, tree: TreeSettings | None = None) -> Search:
        blocks = [block.cpu() for _, block in keys()]
        rows = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        count = len(rows)  # the search keeps only this number, not a second copy of the keys
        search_library = build_search(rows, metric, min(largest_k, count), tree)

        def search(queries: Float[Tensor, "q d"], k: int) -> Ranked:
            scores, nearest_rows = search_library(queries.float().cpu(), min(k, count))
            if metric == "euclidean":
                scores = scores.double() - squared_lengths(queries).cpu()
            return scores, nearest_rows

        return search

    return prepare


SEARCHES: dict[Backend, Callable[..., Search]] = {
    "exact": torch_search,
    "faiss": _library_backend(faiss_search),
    "scann": _library_backend(scann_search),
    "sklearn": _library_backend(sklearn_search),
}
"""Back-end -> function that returns a `Search`, from keys, metric, largest k and, for approximate search, a tree."""
