"""Exact search gives the same results as sorting all scores in float64."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from fungi.errors import FungiError
from fungi.search.backends import SEARCHES
from fungi.search.exact import all_ranked, most_similar, nearest
from fungi.search.neighbours import in_memory, recall

WITHOUT_PRODUCTS = "donot_use_mm_for_euclid_dist"


def rows(count: int, seed: int, dim: int = 24) -> Tensor:
    """Return random rows `[count dim]` in float32."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def in_blocks(keys: Tensor, size: int):
    """Return a function that returns the keys in blocks of this size."""
    return lambda: [(slice(s, min(s + size, len(keys))), keys[s : s + size]) for s in range(0, len(keys), size)]


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("metric", ["euclidean", "inner-product"])
@pytest.mark.parametrize("backend", ["exact", "faiss", "scann"])
def test_rows_and_scores_equal_sorting_all_scores(backend, metric):
    keys, queries = rows(400, seed=0), rows(60, seed=1)
    neighbours = nearest(in_blocks(keys, 37), queries, k=7, metric=metric, backend=backend)
    products = queries.double() @ keys.double().T
    if metric == "inner-product":
        scores, order = products.sort(dim=1, descending=True)
    else:
        scores, order = (torch.cdist(queries.double(), keys.double()) ** 2).sort(dim=1)
    assert torch.equal(neighbours.rows, order[:, :7])
    torch.testing.assert_close(neighbours.scores.double(), scores[:, :7], rtol=1e-5, atol=1e-4)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("backend", ["exact", "faiss", "scann"])
@pytest.mark.parametrize("block", [13, 500])
def test_every_backend_prefers_the_earlier_of_equal_keys(backend, block):
    generator = np.random.default_rng(0)
    keys, queries = generator.integers(-1, 2, (300, 4)), generator.integers(-1, 2, (50, 4))
    products = queries @ keys.T
    expected = np.sort(np.argsort(-products, axis=1, kind="stable")[:, :7], axis=1)
    keys, queries = torch.from_numpy(keys).float(), torch.from_numpy(queries).float()
    neighbours = nearest(in_blocks(keys, block), queries, k=7, metric="inner-product", backend=backend)
    np.testing.assert_array_equal(neighbours.rows.sort(dim=1).values.numpy(), expected)
    np.testing.assert_allclose(
        neighbours.scores.numpy(), np.take_along_axis(products, neighbours.rows.numpy(), 1), atol=1e-5
    )


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("metric", ["euclidean", "inner-product"])
def test_neighbours_with_almost_equal_scores_are_those_of_float64(metric, offset, spread):
    """Keys are close to each other and far from zero, so the rounding of float32 matters. A few keys are longer."""
    queries = rows(40, seed=1, dim=512)
    keys = queries[0] * 0.5 + offset + spread * rows(1500, seed=0, dim=512)
    keys[::97] *= 3
    neighbours = nearest(in_blocks(keys, 400), queries, k=20, metric=metric)
    double_queries, double_keys = queries.double(), keys.double()
    if metric == "inner-product":
        scores = -(double_queries @ double_keys.T)
    else:
        scores = torch.cdist(double_queries, double_keys, compute_mode=WITHOUT_PRODUCTS)
    expected = scores.topk(20, dim=1, largest=False).values
    size = double_queries.square().sum(dim=1) + double_keys.square().sum(dim=1).max()
    if metric == "euclidean":
        expected, scores = expected.square(), scores.square()
    excess = scores.gather(1, neighbours.rows).sort(dim=1).values - expected
    # Scores that differ by less than 2^-39 of their terms count as equal, and then the earlier key has priority.
    assert bool((excess.max(dim=1).values <= size * 2.0**-39).all())


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("metric", ["euclidean", "inner-product"])
@pytest.mark.parametrize("block", [3010, 1250, 37])
def test_neighbours_among_many_keys_do_not_depend_on_the_blocks(metric, block):
    """Wide blocks are searched in groups of columns, some with an incomplete last group. Narrow blocks are not."""
    keys, queries = rows(3010, seed=0), rows(30, seed=1)
    products = queries.double() @ keys.double().T
    scores = products if metric == "inner-product" else -torch.cdist(queries.double(), keys.double())
    assert torch.equal(nearest(in_blocks(keys, block), queries, k=7, metric=metric).rows, scores.topk(7, dim=1).indices)


@pytest.mark.also_with_two_threads
def test_most_similar_does_not_return_excluded_keys():
    keys, queries = rows(50, seed=0), rows(12, seed=1).unflatten(0, (4, 3))
    is_excluded = torch.rand(4, 1, 50, generator=torch.Generator().manual_seed(2)) < 0.5
    products, indices = most_similar(queries, keys, k=5, excluded=is_excluded)
    for item in range(4):
        allowed = [row for row in range(50) if not is_excluded[item, 0, row]]
        for view in range(3):
            query = queries[item, view].double()
            ordered = sorted(allowed, key=lambda row, query=query: -float(query @ keys[row].double()))[:5]
            assert indices[item, view].tolist() == ordered
            torch.testing.assert_close(products[item, view], keys[ordered] @ queries[item, view])
    assert most_similar(queries, keys[:2], k=5)[1].shape == (4, 3, 2)


@pytest.mark.also_with_two_threads
def test_the_ranking_of_all_keys_does_not_depend_on_the_blocks():
    keys, queries = rows(90, seed=0), rows(7, seed=1)
    keys[::9] = keys[0]  # equal keys are ranked in their order
    products = queries.double().numpy() @ keys.double().numpy().T
    expected = [sorted(range(90), key=lambda row, scores=scores: (-round(scores[row], 9), row)) for scores in products]
    assert all_ranked(in_blocks(keys, 13), queries).tolist() == expected


def test_there_are_at_most_as_many_neighbours_as_keys():
    assert nearest(in_memory(rows(3, seed=0)), rows(2, seed=1), k=5).rows.shape == (2, 3)


def test_recall_is_the_share_of_true_neighbours():
    assert recall(torch.tensor([[1, 2], [3, 9]]), torch.tensor([[2, 1], [3, 4]])) == 0.75


def test_a_library_that_does_not_support_the_metric_is_refused():
    with pytest.raises(FungiError, match="scikit-learn does not support search by inner product"):
        nearest(in_memory(rows(3, seed=0)), rows(2, seed=1), k=1, metric="inner-product", backend="sklearn")


@pytest.mark.parametrize("backend", ["faiss", "scann"])
def test_a_search_does_not_keep_a_copy_of_keys_that_the_library_copies(backend: str) -> None:
    keys = torch.randn(300, 8)
    reference = weakref.ref(keys)
    search = SEARCHES[backend](lambda keys=keys: iter([(slice(0, 300), keys)]), "inner-product", 5)
    del keys
    gc.collect()
    assert reference() is None
    assert search(torch.randn(2, 8), 5)[1].shape == (2, 5)
