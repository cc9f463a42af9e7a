"""Exact search, PCA and the projection of rows are of full precision whatever the environment asks for."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fungi.combine.pca import Reducer
from fungi.combine.source import ArrayInMemory, FeatureSource
from fungi.gradients.engine import GradientEngine
from fungi.runtime.device import choose_device
from fungi.runtime.precision import full_precision
from fungi.search.exact import most_similar, nearest
from fungi.search.neighbours import in_memory
from fungi.search.stored import BankSearch
from fungi.store.banks import PatchRows
from fungi.views.image import ImageInput
from tests.library.models import SIZE, build

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class ShortProducts(TorchDispatchMode):
    """A device that multiplies and convolves as TF32 does, ten bits of each number, unless told to use all of them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        short = name in PRODUCTS and torch.get_float32_matmul_precision() != "highest"
        if short or (name == "convolution" and torch.backends.cudnn.allow_tf32):
            args = [shortened(value) for value in args]
        return func(*args, **(kwargs or {}))


def shortened(value):
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    return (value.view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.fixture
def tf32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Products and convolutions are shortened, as a user, a container or torch itself can ask for.

    Products go the way that every device has.
    """
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("high")
    with ShortProducts():
        yield
    torch.set_float32_matmul_precision("highest")


def rows(count: int, dim: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


@contextmanager
def plain() -> Iterator[None]:
    """The same with all digits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def test_the_stand_in_for_short_products_shortens(tf32: None) -> None:
    keys, queries = rows(500), rows(40, seed=1)
    short = queries @ keys.T
    with full_precision():
        full = queries @ keys.T
    assert 1e-4 < (short - full).abs().max() < 0.1
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("metric", ["euclidean", "inner-product"])
def test_neighbours_and_scores_are_those_of_full_precision(metric: str, tf32: None) -> None:
    keys, queries = rows(2000), rows(100, seed=1)
    found = nearest(in_memory(keys), queries, 5, metric)
    with plain():
        truth = nearest(in_memory(keys), queries, 5, metric)
    torch.testing.assert_close(found.scores, truth.scores, rtol=0, atol=0)
    assert torch.equal(found.rows, truth.rows)


def test_other_searches_and_pca_are_those_of_full_precision(tf32: None) -> None:
    keys, queries = rows(2000), rows(100, seed=1)
    source = FeatureSource({"embeddings": ArrayInMemory(keys.numpy())})

    def results() -> list[torch.Tensor]:
        reduction = Reducer(source, 8).fit(["embeddings"])
        search = BankSearch(PatchRows(keys.numpy()), torch.device("cpu"))
        return [
            most_similar(queries, keys, 5)[0],
            search(queries, 5)[0],
            reduction({"embeddings": queries}, torch.device("cpu")),
        ]

    short = results()
    with plain():
        full = results()
    for one, other in zip(short, full, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["timm", "torchvision", "convolutions"])
def test_float32_embeddings_are_of_full_precision_in_a_command(kind: str, tf32: None) -> None:
    model = build(kind).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 1, 3, SIZE, SIZE), dtype=np.uint8))
    views = ImageInput(size=SIZE, resize=SIZE).views("plain")

    def embeddings() -> torch.Tensor:
        return GradientEngine(model, [], device=torch.device("cpu")).embed(images, views)

    with full_precision():
        full = embeddings()
    assert not torch.equal(embeddings(), full)
    torch.set_float32_matmul_precision("highest")
    assert not torch.equal(embeddings(), full), "convolutions are shortened although products are not"
    torch.set_float32_matmul_precision("high")
    choose_device("cpu")  # every command begins so
    torch.testing.assert_close(embeddings(), full, rtol=0, atol=0)


def test_precision_is_as_before_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    @full_precision()
    def failing() -> None:
        assert torch.backends.cudnn.allow_tf32 is False
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert torch.backends.cudnn.allow_tf32 is True
