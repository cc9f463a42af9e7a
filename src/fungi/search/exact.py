"""Exact search: the k nearest keys do not depend on the library or the hardware.

The rankings of keys (`search.backends`) are first computed in float32. The k nearest keys are certain if the k-th and
(k+1)-th ranking of a query differ by more than the rounding error. The few other queries are searched again in float64.
Among keys with equal rankings, the first keys are taken. Therefore, all libraries return the same rows, for every size
of blocks.
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
    block_maxima: list[Float[Tensor, ""]] = []

    def keys_with_maxima() -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
        for span, block in keys():
            largest_norm = torch.linalg.vector_norm(block, dim=1).max()
            block_maxima.append(largest_norm)  # not converted to a number yet, because this would wait for the device
            yield span, block

    ranking, rows = SEARCHES[backend](keys_with_maxima, metric, k + 1)(queries, k + 1)  # [q k+1], nearest first
    ranking, rows = ranking.to(queries.device, torch.float64), rows.to(queries.device)
    best_ranking, best_rows = ranking[:, :k].clone(), rows[:, :k].clone()
    if ranking.shape[1] > k:  # otherwise, all keys are returned
        largest_norm = float(torch.stack(block_maxima).max())
        is_uncertain = (ranking[:, k] - ranking[:, k - 1]).abs() <= _rounding_error(queries, largest_norm, metric)
        if bool(is_uncertain.any()):
            exact_ranking, exact_rows = _search_float64(keys, queries[is_uncertain], k, largest_norm, metric)
            best_ranking[is_uncertain], best_rows[is_uncertain] = exact_ranking, exact_rows
    if metric == "inner-product":
        return Neighbours(best_ranking.float(), best_rows)
    return Neighbours((best_ranking + squared_lengths(queries)).clamp_min(0).float(), best_rows)


@full_precision()
def most_similar(
    queries: Float[Tensor, "*q d"], keys: Float[Tensor, "n d"], k: int, excluded: Bool[Tensor, "*#q n"] | None = None
) -> tuple[Float[Tensor, "*q k"], Int64[Tensor, "*q k"]]:
    """Return products and rows of the k keys with the largest products, or of all keys if there are fewer.

    All products are computed at once, in the dtype of the queries, so use this function for few keys only.
    excluded: true for keys to skip.
    """
    products = queries @ keys.T  # [*q d] [d n] -> [*q n]
    if excluded is not None:
        products = products.masked_fill(excluded, -torch.inf)
    best = products.topk(min(k, len(keys)), dim=-1)
    return best.values, best.indices


def all_ranked(keys: Keys, queries: Float[Tensor, "q d"]) -> Int64[np.ndarray, "q n"]:
    """Return all rows of keys per query, by descending product in float64. Ties keep the order of the keys."""
    queries64 = queries.double()
    products = torch.cat([(queries64 @ block.double().T).cpu() for _, block in keys()], dim=1)  # [q d] [d b] -> [q b]
    return np.argsort(-products.numpy(), axis=1, kind="stable")


def _rounding_error(queries: Float[Tensor, "q d"], largest_norm: float, metric: Metric) -> Float[Tensor, " q"]:
    """Return an upper bound of the rounding error, in float32, of the difference between two rankings.

    largest_norm: largest norm of a key.
    """
    growth = queries.shape[1] ** 0.5 + 4  # the error of a sum grows with the square root of its number of terms
    norms = torch.linalg.vector_norm(queries, dim=1)
    # Upper bound of |b|^2 + 2 |a.b| or |a.b|, the terms of a ranking.
    magnitude = (largest_norm + norms).square() if metric == "euclidean" else largest_norm * norms
    return 2 * torch.finfo(torch.float32).eps * growth * magnitude


def _search_float64(
    keys: Keys, queries: Float[Tensor, "q d"], k: int, largest_norm: float, metric: Metric
) -> tuple[Float[Tensor, "q k"], Int64[Tensor, "q k"]]:
    """Return rankings (as defined in `search.backends`) and rows from float64 products.

    Among keys with equal rankings, the first keys are taken.
    """
    # The nearest keys have the smallest distance, beta (|b|^2 + |a|^2) - alpha a.b.
    beta, alpha = (1, 2) if metric == "euclidean" else (0, 1)
    queries64 = queries.double()
    offset = beta * squared_lengths(queries)
    # Distances are rounded to multiples of a step, so that ties are equal for every order of summation.
    step = _TIE * (squared_lengths(queries) + largest_norm * largest_norm)
    steps = queries64.new_empty(queries64.shape[0], 0)  # distances of the best keys, in units of a step, [q k]
    rows = torch.empty(queries64.shape[0], 0, dtype=torch.int64, device=queries64.device)
    for span, block in keys():
        block = block.to(queries64)
        squares = beta * block.square().sum(dim=1)
        new_steps = torch.round((squares - alpha * queries64 @ block.T + offset) / step)  # [q d] [d b] -> [q b]
        new_rows = torch.arange(span.start, span.stop, device=rows.device).expand(len(rows), -1)
        steps, rows = torch.cat([steps, new_steps], dim=1), torch.cat([rows, new_rows], dim=1)
        order = steps.sort(dim=1, stable=True).indices[:, :k]
        steps, rows = steps.gather(1, order), rows.gather(1, order)
    ranking = steps * step - offset
    return (ranking if metric == "euclidean" else -ranking), rows
