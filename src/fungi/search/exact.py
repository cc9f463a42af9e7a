"""Exact search: the k nearest keys do not depend on the library or the hardware.

With alpha and beta of the metric, keys b are ranked for a query a by

    r(b) = beta |b|^2 - alpha a.b        (euclidean: beta 1, alpha 2; |a|^2 is the same for all keys of a query)

tile by tile in float32. The k nearest keys are certain if the k-th and (k+1)-th ranking of a query differ by more than
the rounding error. The few other queries are searched again in float64; keys with equal rankings are taken in their
order. So all libraries return the same rows, for every tile size.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fungi.runtime.precision import full_precision
from fungi.search import Backend, Metric
from fungi.search.backends import SEARCHES, squared_lengths
from fungi.search.neighbours import Keys, Neighbours

_TIE = 2.0**-40
"""Relative difference below which two rankings count as equal. float64 sums in another order differ by less."""


def nearest(
    keys: Keys, queries: Float[Tensor, "q d"], k: int, metric: Metric = "euclidean", backend: Backend = "exact"
) -> Neighbours:
    """Return the k nearest keys of each query, or all keys if there are fewer.

    The set of rows is exact. The order of the rows within the set may come from float32 scores.
    """
    lengths: list[Float[Tensor, ""]] = []

    def keys_with_lengths() -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
        for span, block in keys():
            lengths.append(torch.linalg.vector_norm(block, dim=1).max())  # read later: reading waits for the device
            yield span, block

    ranking, rows = SEARCHES[backend](keys_with_lengths, metric, k + 1)(queries, k + 1)  # [q k+1], nearest first
    ranking, rows = ranking.to(queries.device, torch.float64), rows.to(queries.device)
    best, values, longest = rows[:, :k].clone(), ranking[:, :k].clone(), float(torch.stack(lengths).max())
    if ranking.shape[1] > k:
        is_unsure = (ranking[:, k] - ranking[:, k - 1]).abs() <= _rounding(queries, longest, metric)
        if bool(is_unsure.any()):
            values[is_unsure], best[is_unsure] = _search_float64(keys, queries[is_unsure], k, longest, metric)
    if metric == "inner-product":
        return Neighbours(values.float(), best)
    return Neighbours((values + squared_lengths(queries)).clamp_min(0).float(), best)


@full_precision()
def most_similar(
    queries: Float[Tensor, "*q d"], keys: Float[Tensor, "n d"], k: int, excluded: Bool[Tensor, "*#q n"] | None = None
) -> tuple[Float[Tensor, "*q k"], Int64[Tensor, "*q k"]]:
    """Return products and rows of the k keys with the largest products, or of all keys if there are fewer.

    This computes all products at once, in the dtype of the queries, so use it for few keys. excluded: keys to skip.
    """
    products = queries @ keys.T  # [*q d] [d n] -> [*q n]
    if excluded is not None:
        products = products.masked_fill(excluded, -torch.inf)
    best = products.topk(min(k, len(keys)), dim=-1)
    return best.values, best.indices


def all_ranked(keys: Keys, queries: Float[Tensor, "q d"]) -> Int64[np.ndarray, "q n"]:
    """Return all rows of keys per query, by descending product in float64. Ties keep the order of the keys."""
    float64 = queries.double()
    products = torch.cat([(float64 @ block.double().T).cpu() for _, block in keys()], dim=1)  # [q d] [d b] -> [q b]
    return np.argsort(-products.numpy(), axis=1, kind="stable")


def _rounding(queries: Float[Tensor, "q d"], longest: float, metric: Metric) -> Float[Tensor, " q"]:
    """Return an upper bound of the rounding error, in float32, of the difference between two rankings.

    longest: largest norm of a key.
    """
    terms = queries.shape[1] ** 0.5 + 4  # the error of a sum grows with the square root of its number of terms
    lengths = torch.linalg.vector_norm(queries, dim=1)
    size = (longest + lengths).square() if metric == "euclidean" else longest * lengths
    return 2 * torch.finfo(torch.float32).eps * terms * size


def _search_float64(
    keys: Keys, queries: Float[Tensor, "q d"], k: int, longest: float, metric: Metric
) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """Return rankings (as in `SEARCHES`) and rows from float64 products. Ties keep the order of the rows."""
    beta, alpha = (1, 2) if metric == "euclidean" else (0, 1)
    float64 = queries.double()
    lengths = beta * squared_lengths(queries)
    # Rankings are rounded to a grid, so that ties are equal for every order of summation.
    grid = _TIE * (squared_lengths(queries) + longest * longest)
    values = float64.new_empty(float64.shape[0], 0)
    rows = torch.empty(float64.shape[0], 0, dtype=torch.int64, device=float64.device)
    for span, block in keys():
        block = block.to(float64)
        squares = beta * block.square().sum(dim=1)
        distances = torch.round((squares - alpha * float64 @ block.T + lengths) / grid)  # [q d] [d b] -> [q b]
        rows_of_block = torch.arange(span.start, span.stop, device=rows.device).expand(len(rows), -1)
        values, rows = torch.cat([values, distances], dim=1), torch.cat([rows, rows_of_block], dim=1)
        order = values.sort(dim=1, stable=True).indices[:, :k]
        values, rows = values.gather(1, order), rows.gather(1, order)
    ranking = values * grid - lengths
    return (ranking if metric == "euclidean" else -ranking), rows
