"""The one table of searches: keys made ready once, then queries -> what ranks the nearest of them, and their rows.

The ranking of a key b for a query a is the product a.b, falling, or |b|^2 - 2 a.b, rising: the squared distance but for
|a|^2, which all keys of a query have in common, and which would cost digits.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fungi.runtime.precision import full_precision
from fungi.runtime.products import linear
from fungi.search import Backend, Metric
from fungi.search.libraries import Answer, TreeSettings, faiss_search, scann_search, sklearn_search
from fungi.search.neighbours import Keys

QUERIES_AT_ONCE = 512
GROUP = 32
"""Columns whose best entry stands for them."""

Ranked = tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]
"""Rankings and rows, best first."""
Search = Callable[[Float[Tensor, "q d"], int], Ranked]
"""Queries and k -> the k best keys of each query, or all where there are fewer."""


def torch_search(keys: Keys, metric: Metric, k: int, tree: TreeSettings | None = None) -> Search:
    """Return a search of every key against every query, tile by tile in full float32, on the device of both."""
    largest = metric == "inner-product"

    @full_precision()
    def search(queries: Float[Tensor, "q d"], k: int) -> Ranked:
        # The best so far, kept up to date tile by tile: results of tiles that wait for each other would be held again
        # for every tile, and lie between the large blocks that are freed.
        values = queries.new_full((len(queries), k), -torch.inf if largest else torch.inf)
        rows = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
        seen = 0
        for place, block in keys():
            squares = None if largest else block.square().sum(dim=1)
            parts = (part.split(QUERIES_AT_ONCE) for part in (queries, values, rows))
            for tile, best, their_rows in zip(*parts, strict=True):
                near, columns = _best(linear(tile if largest else -2 * tile, block, squares), k, largest)
                _merge(best, their_rows, near, columns + place.start, largest)
            seen += len(block)
            del block  # before the next one is read
        assert seen, "a search needs keys"
        return values[:, :seen], rows[:, :seen]

    return search


def _merge(
    values: Float[Tensor, "q k"],
    rows: Int64[Tensor, "q k"],
    near: Float[Tensor, "q n"],
    columns: Int64[Tensor, "q n"],
    largest: bool,
) -> None:
    """Update the best matches so far, in place, with those of another block."""
    best = torch.cat([values, near], dim=1).topk(values.shape[1], dim=1, largest=largest)
    values.copy_(best.values)
    rows.copy_(torch.cat([rows, columns], dim=1).gather(1, best.indices))


def squared_lengths(rows: Float[Tensor, "q d"]) -> Float[Tensor, "q 1"]:
    """|a|^2 of each row, in float64."""
    return rows.double().square().sum(dim=1, keepdim=True)


def _best(ranking: Float[Tensor, "q b"], k: int, largest: bool) -> Ranked:
    """Return the k best entries of each row: they lie in the k groups of columns whose best entries are best."""
    width = ranking.shape[1]
    grouped = width // GROUP * GROUP
    if grouped < 4 * k * GROUP:
        top = ranking.topk(min(k, width), dim=1, largest=largest)
        return top.values, top.indices
    groups = ranking[:, :grouped].unflatten(1, (-1, GROUP))  # [q g 32]
    firsts = groups.amax(dim=2) if largest else groups.amin(dim=2)
    chosen = firsts.topk(k, dim=1, largest=largest).indices  # [q k]
    candidates = groups.gather(1, chosen.unsqueeze(2).expand(-1, -1, GROUP)).flatten(1)  # [q k 32] -> [q k*32]
    top = torch.cat([candidates, ranking[:, grouped:]], dim=1).topk(k, dim=1, largest=largest)
    inside = top.indices < k * GROUP
    group = chosen.gather(1, (top.indices // GROUP).clamp_max(k - 1))
    columns = torch.where(inside, group * GROUP + top.indices % GROUP, top.indices + (grouped - k * GROUP))
    return top.values, columns


def _of_library(make: Callable[..., Answer]) -> Callable[..., Search]:
    """Return a search of another library, which holds all keys at once, in the memory of the host."""

    def prepare(keys: Keys, metric: Metric, k: int, tree: TreeSettings | None = None) -> Search:
        blocks = [block.cpu() for _, block in keys()]
        rows = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        count = len(rows)  # of the search, which does not hold the keys themselves: the library has them
        answer = make(rows, metric, min(k, count), tree)

        def search(queries: Float[Tensor, "q d"], k: int) -> Ranked:
            scores, rows_of_queries = answer(queries.float().cpu(), min(k, count))
            return (
                scores if metric == "inner-product" else scores.double() - squared_lengths(queries).cpu()
            ), rows_of_queries

        return search

    return prepare


SEARCHES: dict[Backend, Callable[..., Search]] = {
    "exact": torch_search,
    "faiss": _of_library(faiss_search),
    "scann": _of_library(scann_search),
    "sklearn": _of_library(sklearn_search),
}
"""Keys, metric, the largest k that will be asked for, and a tree for an approximate search -> the search."""
