"""Exact search: which k keys are nearest is certain, whatever computes the products.

With alpha and beta of the metric, keys b are ranked for a query a by

    r(b) = beta |b|^2 - alpha a.b        (euclidean: beta 1, alpha 2; |a|^2 is the same for all keys of a query)

tile by tile in float32. The k nearest are then certain for every query whose k-th and (k+1)-th ranking lie further
apart than rounding can move them; the few other queries are searched again in float64, where equal ones go to the
earlier key. So all libraries give the same rows, whatever the tile size.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fungi.search import Backend, Metric
from fungi.search.flat import faiss_search, scann_search, sklearn_search
from fungi.search.neighbours import Found, Keys

_QUERY_TILE = 2048
_TIE = 2.0**-40  # rankings that agree in so many digits are equal: float64 sums of the same terms, in another order


def nearest(
    keys: Keys, queries: Float[Tensor, "q d"], k: int, metric: Metric = "euclidean", backend: Backend = "torch"
) -> Found:
    """The k nearest keys of each query, or all where there are fewer.

    The rows are exact as a set; their order follows float32 scores where no rounding could change the set.
    """
    ranking, rows, reach = _SEARCHES[backend](keys, queries, k + 1, metric)  # [q k+1], nearest first
    ranking, rows = ranking.to(queries.device, torch.float64), rows.to(queries.device)
    best = rows[:, :k].clone()
    values = ranking[:, :k].clone()
    if ranking.shape[1] > k:
        unsure = (ranking[:, k] - ranking[:, k - 1]) <= _rounding(queries, reach, metric)
        if bool(unsure.any()):
            values[unsure], best[unsure] = _search_float64(keys, queries[unsure], k, reach, metric)
    if metric == "inner-product":
        return Found(-values.float(), best)
    return Found((values + _squares(queries)).clamp_min(0).float(), best)


def _squares(rows: Float[Tensor, "q d"]) -> Float[Tensor, "q 1"]:
    return rows.double().square().sum(dim=1, keepdim=True)


def _factors(metric: Metric) -> tuple[int, int]:
    """(beta, alpha)."""
    return (1, 2) if metric == "euclidean" else (0, 1)


def _rounding(queries: Float[Tensor, "q d"], reach: float, metric: Metric) -> Float[Tensor, " q"]:
    """How far float32 sums may move the difference of two rankings; reach: the longest key's length."""
    terms = queries.shape[1] ** 0.5 + 4  # errors of a sum grow with the root of its length
    lengths = torch.linalg.vector_norm(queries, dim=1)
    size = (reach + lengths).square() if metric == "euclidean" else reach * lengths
    return 2 * torch.finfo(torch.float32).eps * terms * size


_Ranked = tuple[Float[Tensor, "q m"], Int64[Tensor, "q m"], float]
"""Rankings, ascending; rows; the longest key's length."""


def _search_torch(keys: Keys, queries: Float[Tensor, "q d"], count: int, metric: Metric) -> _Ranked:
    beta, alpha = _factors(metric)
    best: list[tuple[Tensor, Tensor]] = []
    reach = 0.0
    for place, block in keys():
        squares = block.square().sum(dim=1)
        reach = max(reach, float(squares.max()) ** 0.5)
        found = []
        for tile in queries.split(_QUERY_TILE):
            ranking = torch.addmm(squares, tile, block.T, beta=beta, alpha=-alpha)  # [q d] [d b] -> [q b]
            found.append(ranking.topk(min(count, ranking.shape[1]), dim=1, largest=False))
        values = torch.cat([part.values for part in found])
        rows = torch.cat([part.indices for part in found]) + place.start
        best = [_merged([*best, (values, rows)], count)]
    return *best[0], reach


def _merged(parts: list[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    values, rows = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    order = values.topk(min(count, values.shape[1]), dim=1, largest=False)
    return order.values, rows.gather(1, order.indices)


def _search_float64(
    keys: Keys, queries: Float[Tensor, "q d"], k: int, reach: float, metric: Metric
) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """Rankings and rows by float64; equal ones in the order of the rows."""
    beta, alpha = _factors(metric)
    wide = queries.double()
    lengths = beta * _squares(queries)
    # Rankings are rounded to a grid, so that equal ones are equal whatever the order of the sums.
    grid = _TIE * (_squares(queries) + reach * reach)
    values = wide.new_empty(wide.shape[0], 0)
    rows = torch.empty(wide.shape[0], 0, dtype=torch.int64, device=wide.device)
    for place, block in keys():
        block = block.to(wide)
        squares = beta * block.square().sum(dim=1)
        distances = torch.round((squares - alpha * wide @ block.T + lengths) / grid)  # [q d] [d b] -> [q b]
        places = torch.arange(place.start, place.stop, device=rows.device).expand(len(rows), -1)
        values, rows = torch.cat([values, distances], dim=1), torch.cat([rows, places], dim=1)
        order = values.sort(dim=1, stable=True).indices[:, :k]
        values, rows = values.gather(1, order), rows.gather(1, order)
    return values * grid - lengths, rows


def _of_library(search: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., _Ranked]:
    """A search of another library, which takes all keys at once and gives distances or products."""

    def run(keys: Keys, queries: Float[Tensor, "q d"], count: int, metric: Metric) -> _Ranked:
        rows = torch.cat([block for _, block in keys()]).cpu()
        scores, found = search(rows, queries.cpu(), min(count, len(rows)), metric)
        ranking = -scores if metric == "inner-product" else scores.double() - _squares(queries).cpu()
        return ranking, found, float(rows.norm(dim=1).max())

    return run


_SEARCHES: dict[Backend, Callable[..., _Ranked]] = {
    "torch": _search_torch,
    "faiss": _of_library(faiss_search),
    "scann": _of_library(scann_search),
    "sklearn": _of_library(sklearn_search),
}
