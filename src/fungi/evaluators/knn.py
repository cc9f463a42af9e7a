"""k-nearest-neighbour classification: Euclidean distance, uniform majority vote, ties to the smallest label.

Exact. Distances are ranked by |b|^2 - 2 a.b (|a|^2 is the same for all neighbours of a query a), tile by tile in
float32. Which k rows are nearest is then certain for every query whose k-th and (k+1)-th distance lie further apart
than rounding can move them; the few other queries are searched again in float64, where equal distances go to the
earlier train row. So all backends give the same neighbours, whatever the tile size.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from fungi.errors import FungiError

Backend = Literal["torch", "faiss", "scann", "sklearn"]
TrainBlocks = Callable[[], Iterable[tuple[slice, Float[Tensor, "b r"]]]]
"""Gives the train rows from the start, as (their places, `[b r]`): they may come from memory or from files."""

_QUERY_TILE = 2048
_TIE = 2.0**-40  # distances that agree in so many digits are equal: float64 sums of the same terms, in another order


def knn_predictions(
    train: TrainBlocks,
    train_targets: Integer[np.ndarray, " n"],
    queries: Float[Tensor, "q r"],
    k: int,
    backend: Backend = "torch",
) -> Integer[np.ndarray, " q"]:
    """Predicted label of each query. FungiError where there are fewer train rows than k."""
    return majority_vote(neighbour_labels(train, train_targets, queries, k, backend))


def neighbour_labels(
    train: TrainBlocks,
    train_targets: Integer[np.ndarray, " n"],
    queries: Float[Tensor, "q r"],
    k: int,
    backend: Backend = "torch",
) -> Integer[np.ndarray, "q k"]:
    """Labels of the k nearest train rows of each query. FungiError where there are fewer train rows than k."""
    if len(train_targets) < k:
        raise FungiError(
            f"k = {k} neighbours were asked for, but there are only {len(train_targets)} train rows. Use --k."
        )
    return train_targets[nearest_rows(train, queries, k, backend).numpy()]


def rows_in_memory(rows: Float[Tensor, "n r"]) -> TrainBlocks:
    """Train rows that are one tensor."""
    return lambda: [(slice(0, rows.shape[0]), rows)]


def majority_vote(labels: Integer[np.ndarray, "q k"]) -> Integer[np.ndarray, " q"]:
    """The label that occurs most often in each row; of ties the smallest."""
    known, codes = np.unique(labels, return_inverse=True)
    codes = codes.reshape(labels.shape)
    winners = np.empty(len(labels), dtype=known.dtype)
    for start in range(0, len(labels), _QUERY_TILE):
        tile = torch.from_numpy(codes[start : start + _QUERY_TILE])
        votes = torch.zeros(tile.shape[0], len(known), dtype=torch.int32)
        votes.scatter_add_(1, tile, torch.ones_like(tile, dtype=torch.int32))
        # numpy's argmax gives the first of equal counts, hence the smallest label.
        winners[start : start + _QUERY_TILE] = known[votes.numpy().argmax(axis=1)]
    return winners


def nearest_rows(
    train: TrainBlocks, queries: Float[Tensor, "q r"], k: int, backend: Backend = "torch"
) -> Int64[Tensor, "q k"]:
    """Places of the k nearest train rows of each query, on the CPU; the order within a row means nothing."""
    distances, rows, reach = _SEARCHES[backend](train, queries, k + 1)  # [q k+1], nearest first
    nearest = rows[:, :k].clone()
    if distances.shape[1] > k:
        rounding = _rounding(queries, reach).to(distances.device)
        unsure = (distances[:, k] - distances[:, k - 1]) <= rounding
        if bool(unsure.any()):
            nearest[unsure] = _search_float64(train, queries[unsure.to(queries.device)], k, reach).to(nearest.device)
    return nearest.cpu()


_Found = tuple[Float[Tensor, "q m"], Int64[Tensor, "q m"], float]
"""Ranking distances, ascending; rows; the longest train row's length."""


def _rounding(queries: Float[Tensor, "q r"], reach: float) -> Float[Tensor, " q"]:
    """How far float32 sums may move the difference of two ranking distances."""
    terms = queries.shape[1] ** 0.5 + 4  # errors of a sum grow with the root of its length
    lengths = torch.linalg.vector_norm(queries, dim=1)
    return 2 * torch.finfo(torch.float32).eps * terms * (reach + lengths).square()


def _search_torch(train: TrainBlocks, queries: Float[Tensor, "q r"], count: int) -> _Found:
    best: list[tuple[Tensor, Tensor]] = []
    reach = 0.0
    for place, block in train():
        squares = block.square().sum(dim=1)
        reach = max(reach, float(squares.max()) ** 0.5)
        found = []
        for tile in queries.split(_QUERY_TILE):
            ranking = torch.addmm(squares, tile, block.T, alpha=-2)  # [q r] [r b] -> [q b]
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


def _search_float64(train: TrainBlocks, queries: Float[Tensor, "q r"], k: int, reach: float) -> Int64[Tensor, "q k"]:
    """The nearest rows by float64 distances; equal ones in the order of the rows."""
    wide = queries.double()
    lengths = wide.square().sum(dim=1, keepdim=True)
    # Distances are rounded to a grid, so that equal ones are equal whatever the order of the sums.
    grid = _TIE * (lengths + reach * reach)
    values = wide.new_empty(wide.shape[0], 0)
    rows = torch.empty(wide.shape[0], 0, dtype=torch.int64, device=wide.device)
    for place, block in train():
        block = block.double()
        squares = block.square().sum(dim=1)
        distances = torch.round((squares - 2 * wide @ block.T + lengths) / grid)  # [q r] [r b] -> [q b]
        places = torch.arange(place.start, place.stop, device=rows.device).expand(len(rows), -1)
        values, rows = torch.cat([values, distances], dim=1), torch.cat([rows, places], dim=1)
        order = values.sort(dim=1, stable=True).indices[:, :k]
        values, rows = values.gather(1, order), rows.gather(1, order)
    return rows


def _gathered(train: TrainBlocks) -> Float[Tensor, "n r"]:
    return torch.cat([block for _, block in train()]).cpu()


def _search_faiss(train: TrainBlocks, queries: Float[Tensor, "q r"], count: int) -> _Found:
    try:
        import faiss
    except ImportError as error:
        raise FungiError(
            f"--backend faiss can't be used ({error}). Install faiss-cpu, or use --backend torch."
        ) from None

    rows = _gathered(train)
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows.numpy())
    distances, found = index.search(queries.cpu().numpy(), min(count, len(rows)))
    return torch.from_numpy(distances), torch.from_numpy(found), float(rows.norm(dim=1).max())


def _search_scann(train: TrainBlocks, queries: Float[Tensor, "q r"], count: int) -> _Found:
    """ScaNN's exhaustive mode: its quantised modes would only be approximate."""
    try:
        import scann
    except ImportError as error:
        raise FungiError(f"--backend scann can't be used ({error}). Install scann, or use --backend torch.") from None

    rows = _gathered(train)
    builder = scann.scann_ops_pybind.builder(rows.numpy(), min(count, len(rows)), "squared_l2")
    found, distances = builder.score_brute_force().build().search_batched(queries.cpu().numpy())
    return torch.from_numpy(distances), torch.from_numpy(found.astype(np.int64)), float(rows.norm(dim=1).max())


def _search_sklearn(train: TrainBlocks, queries: Float[Tensor, "q r"], count: int) -> _Found:
    from sklearn.neighbors import NearestNeighbors

    rows = _gathered(train)
    search = NearestNeighbors(n_neighbors=min(count, len(rows)), algorithm="brute").fit(rows.numpy())
    distances, found = search.kneighbors(queries.cpu().numpy())
    return torch.from_numpy(distances**2), torch.from_numpy(found), float(rows.norm(dim=1).max())


_SEARCHES: dict[Backend, Callable[[TrainBlocks, Float[Tensor, "q r"], int], _Found]] = {
    "torch": _search_torch,
    "faiss": _search_faiss,
    "scann": _search_scann,
    "sklearn": _search_sklearn,
}
