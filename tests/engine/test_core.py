"""Laws of the computation of features from a batch."""

import torch

from fungi.gradients.core import EMBEDDINGS, Feature, FiniteCheck, compute, embedding_feature
from fungi.gradients.engine import GradientEngine
from fungi.gradients.group_size import ON_CPU
from fungi.gradients.targets import find_targets
from tests.engine.golden import PreparedViews
from tests.engine.models import build, contrast

CPU = torch.device("cpu")


def features() -> tuple[GradientEngine, list[Feature], dict[str, torch.Tensor]]:
    model, layers = build("attention projection, last block")
    engine = GradientEngine(model, find_targets(model, layers), device=CPU)
    single, triple = PreparedViews(1), PreparedViews(3)
    requested = [
        Feature("first", single, engine, contrast),
        Feature("second", triple, engine, contrast),
        Feature("third", single, engine, lambda encoded: contrast(encoded) ** 2),
        embedding_feature(GradientEngine(model, device=CPU), engine, single),
    ]
    generator = torch.Generator().manual_seed(0)
    batch = {
        views.identity: torch.randn(4, views.n_views, 3, 16, 16, generator=generator) for views in (single, triple)
    }
    return engine, requested, batch


def test_features_do_not_depend_on_each_other_and_keep_the_order_of_the_call() -> None:
    _, requested, batch = features()
    together = compute(batch, requested)
    assert list(together) == ["first", "second", "third", EMBEDDINGS]
    for feature in requested:
        alone = compute(batch, [feature])[feature.name]
        assert alone.keys() == together[feature.name].keys()
        assert all(torch.equal(alone[name], together[feature.name][name]) for name in alone)


def test_features_of_the_same_views_share_one_forward(monkeypatch) -> None:
    engine, requested, batch = features()
    encoded: list[int] = []
    monkeypatch.setattr(
        engine, "encoder", lambda views, encoder=engine.encoder: encoded.append(len(views)) or encoder(views)
    )
    compute(batch, requested)
    assert sorted(encoded) == [4, 12]


def test_embeddings_are_float32_for_every_dtype_of_the_gradients() -> None:
    model, layers = build("attention projection, last block")
    half = GradientEngine(model, find_targets(model, layers), device=CPU, dtype=torch.bfloat16)
    own = GradientEngine(model, device=CPU)
    assert embedding_feature(own, half, PreparedViews(1)).engine is own
    assert embedding_feature(own, None, PreparedViews(1)).engine is own


def test_rows_that_are_not_finite_are_counted_from_the_first_batch() -> None:
    check = FiniteCheck()
    assert check.bad_rows() == {}
    rows = torch.zeros(3, 2)
    broken = torch.tensor([[0.0, 0.0], [0.0, torch.inf], [torch.nan, 0.0]])
    check.add({"good": {"a": rows}, "bad": {"a": rows, "b": rows}})
    check.add({"good": {"a": rows}, "bad": {"a": rows, "b": broken}})
    assert check.bad_rows() == {"bad": [4, 5]}


def test_the_device_decides_the_default_of_views_per_forward() -> None:
    model, _ = build("attention projection, last block")
    assert GradientEngine(model, device=CPU).views_per_forward == ON_CPU
    assert GradientEngine(model, device=CPU, views_per_forward=3).views_per_forward == 3
