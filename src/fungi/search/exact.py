"""Exact search: which k keys are nearest is certain, whatever computes the products.

With alpha and beta of the metric, keys b are ranked for a query a by

    r(b) = beta |b|^2 - alpha a.b        (euclidean: beta 1, alpha 2; |a|^2 is the same for all keys of a query)

tile by tile in float32. The k nearest are then certain for every query whose k-th and (k+1)-th ranking lie further
apart than rounding can move them; the few other queries are searched again in float64, where equal ones go to the
earlier key. So all libraries give the same rows, whatever the tile size.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fungi.runtime.precision import full_precision
from fungi.search import Backend, Metric
from fungi.search.backends import SEARCHES, squared_lengths
from fungi.search.neighbours import Found, Keys

_TIE = 2.0**-40  # rankings that agree in so many digits are equal: float64 sums of the same terms, in another order


def nearest(
    keys: Keys, queries: Float[Tensor, "q d"], k: int, metric: Metric = "euclidean", backend: Backend = "exact"
) -> Found:
    """Return the k nearest keys of each query, or all where there are fewer.

    The rows are exact as a set; their order follows float32 scores where no rounding could change the set.
    """
    lengths = [0.0]

    def measured() -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
        for place, block in keys():
            lengths.append(float(torch.linalg.vector_norm(block, dim=1).max()))
            yield place, block

    ranking, rows = SEARCHES[backend](measured, metric, k + 1)(queries, k + 1)  # [q k+1], nearest first
    ranking, rows = ranking.to(queries.device, torch.float64), rows.to(queries.device)
    best, values, reach = rows[:, :k].clone(), ranking[:, :k].clone(), max(lengths)
    if ranking.shape[1] > k:
        unsure = (ranking[:, k] - ranking[:, k - 1]).abs() <= _rounding(queries, reach, metric)
        if bool(unsure.any()):
            values[unsure], best[unsure] = _search_float64(keys, queries[unsure], k, reach, metric)
    if metric == "inner-product":
        return Found(values.float(), best)
    return Found((values + squared_lengths(queries)).clamp_min(0).float(), best)


@full_precision()
def most_similar(
    queries: Float[Tensor, "*q d"], keys: Float[Tensor, "n d"], k: int, left_out: Bool[Tensor, "*#q n"] | None = None
) -> tuple[Float[Tensor, "*q k"], Int64[Tensor, "*q k"]]:
    """Products and rows of the k keys with the largest products, or of all where there are fewer, as the type of the
    queries has them; for few keys. left_out: those that a query may not find.
    """
    products = queries @ keys.T  # [*q d] [d n] -> [*q n]
    if left_out is not None:
        products = products.masked_fill(left_out, -torch.inf)
    best = products.topk(min(k, len(keys)), dim=-1)
    return best.values, best.indices


def all_ranked(keys: Keys, queries: Float[Tensor, "q d"]) -> Int64[np.ndarray, "q n"]:
    """Return all keys of each query by descending product in float64; equal ones in the order of the keys."""
    wide = queries.double()
    products = torch.cat([(wide @ block.double().T).cpu() for _, block in keys()], dim=1)  # [q d] [d b] -> [q b]
    return np.argsort(-products.numpy(), axis=1, kind="stable")


def _rounding(queries: Float[Tensor, "q d"], reach: float, metric: Metric) -> Float[Tensor, " q"]:
    """Return how far float32 sums may move the difference of two rankings; reach: the longest key's length."""
    terms = queries.shape[1] ** 0.5 + 4  # errors of a sum grow with the root of its length
    lengths = torch.linalg.vector_norm(queries, dim=1)
    size = (reach + lengths).square() if metric == "euclidean" else reach * lengths
    return 2 * torch.finfo(torch.float32).eps * terms * size


def _search_float64(
    keys: Keys, queries: Float[Tensor, "q d"], k: int, reach: float, metric: Metric
) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """Rankings as of `SEARCHES`, and rows, by float64; equal ones in the order of the rows."""
    beta, alpha = (1, 2) if metric == "euclidean" else (0, 1)
    wide = queries.double()
    lengths = beta * squared_lengths(queries)
    # Rankings are rounded to a grid, so that equal ones are equal whatever the order of the sums.
    grid = _TIE * (squared_lengths(queries) + reach * reach)
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
    ranking = values * grid - lengths
    return (ranking if metric == "euclidean" else -ranking), rows
