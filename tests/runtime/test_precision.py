"""Exact search, PCA and embeddings have full float32 precision, also if the environment selects TF32."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fungi.backbones.encoders import Encoded
from fungi.combine.pca import Reducer
from fungi.combine.source import ArrayInMemory, FeatureSource
from fungi.errors import FungiError
from fungi.extraction.context import resolve_context
from fungi.extraction.features import embedding_feature
from fungi.extraction.stage import StageSettings
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


class RoundedProducts(TorchDispatchMode):
    """A simulated device with TF32: if allowed, it rounds the inputs of products and convolutions to ten bits."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_rounded = name in PRODUCTS and torch.get_float32_matmul_precision() != "highest"
        if is_rounded or (name == "convolution" and torch.backends.cudnn.allow_tf32):
            args = [rounded(value) for value in args]
        return func(*args, **(kwargs or {}))


def rounded(value):
    """Return a float32 tensor with the mantissas cut to ten bits, and any other value unchanged."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    return (value.view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.fixture
def tf32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Select TF32 for products and convolutions, like a user, a container or torch can do.

    oneDNN is switched off, so that all products are computed by the operations that `RoundedProducts` changes.
    """
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("high")
    with RoundedProducts():
        yield
    torch.set_float32_matmul_precision("highest")


def rows(count: int, dim: int = 32, seed: int = 0) -> torch.Tensor:
    """Return random rows `[count dim]` in float32."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


@contextmanager
def with_full_precision() -> Iterator[None]:
    """Compute products in full precision inside the `with` statement, without the code under test."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def test_the_simulated_device_rounds_products(tf32: None) -> None:
    keys, queries = rows(500), rows(40, seed=1)
    products = queries @ keys.T
    with full_precision():
        exact = queries @ keys.T
    assert 1e-4 < (products - exact).abs().max() < 0.1
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("metric", ["euclidean", "inner-product"])
def test_neighbours_and_scores_have_full_precision(metric: str, tf32: None) -> None:
    keys, queries = rows(2000), rows(100, seed=1)
    neighbours = nearest(in_memory(keys), queries, 5, metric)
    with with_full_precision():
        expected = nearest(in_memory(keys), queries, 5, metric)
    torch.testing.assert_close(neighbours.scores, expected.scores, rtol=0, atol=0)
    assert torch.equal(neighbours.rows, expected.rows)


def test_other_searches_and_pca_have_full_precision(tf32: None) -> None:
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

    with_tf32 = results()
    with with_full_precision():
        expected = results()
    for result, expected_result in zip(with_tf32, expected, strict=True):
        torch.testing.assert_close(result, expected_result, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["timm", "torchvision", "convolutions"])
def test_float32_embeddings_in_a_command_have_full_precision(kind: str, tf32: None) -> None:
    model = build(kind).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 1, 3, SIZE, SIZE), dtype=np.uint8))
    views = ImageInput(size=SIZE, resize=SIZE).views("plain")

    def embeddings() -> torch.Tensor:
        return GradientEngine(model, [], device=torch.device("cpu")).embed(images, views)

    with full_precision():
        expected = embeddings()
    assert not torch.equal(embeddings(), expected)
    torch.set_float32_matmul_precision("highest")
    assert not torch.equal(embeddings(), expected), "convolutions are still rounded"
    torch.set_float32_matmul_precision("high")
    choose_device("cpu")  # every command calls this function first
    torch.testing.assert_close(embeddings(), expected, rtol=0, atol=0)


def test_files_record_the_precision_of_the_products_of_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU is only a name here: nothing is computed on it."""
    settings = StageSettings(root=tmp_path, device="cpu", embedding_precision="tf32", views_per_forward=8)
    context = resolve_context(settings)
    with pytest.raises(FungiError, match="tf32 is for float32 embeddings on a GPU"):
        embedding_feature(context)
    computed: list[tuple[str, bool]] = []

    def encode(*_: object) -> Encoded:
        computed.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return Encoded(torch.zeros(1, 1, 2))

    monkeypatch.setattr(GradientEngine, "encode", encode)
    for precision in ("float32", "tf32"):
        chosen = replace(settings, embedding_precision=precision)
        feature = embedding_feature(replace(context, settings=chosen, device=torch.device("cuda")))
        feature.engine.encode(torch.zeros(1), feature.views)
        assert feature.dtype_name == precision
    assert computed == [("highest", False), ("high", True)]


def test_an_error_restores_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    @full_precision()
    def failing() -> None:
        assert torch.backends.cudnn.allow_tf32 is False
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert torch.backends.cudnn.allow_tf32 is True
