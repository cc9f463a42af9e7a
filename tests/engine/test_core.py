"""Laws of the features of a batch: independence, shared forward passes, dtypes and checks of the values."""

import torch

from fungi.gradients.core import EMBEDDINGS, Feature, FiniteCheck, compute, embedding_feature
from fungi.gradients.engine import GradientEngine
from fungi.gradients.group_size import VIEWS_ON_CPU
from fungi.gradients.targets import find_targets
from tests.engine.golden import PreparedViews
from tests.engine.models import build, contrast

CPU = torch.device("cpu")


def features() -> tuple[GradientEngine, list[Feature], dict[str, torch.Tensor]]:
    """Return an engine, four features that it computes, and a batch of views for them."""
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
    values = compute(batch, requested)
    assert list(values) == ["first", "second", "third", EMBEDDINGS]
    for feature in requested:
        single_values = compute(batch, [feature])[feature.name]
        assert single_values.keys() == values[feature.name].keys()
        assert all(torch.equal(single_values[name], values[feature.name][name]) for name in single_values)


def test_features_of_the_same_views_share_a_forward_pass(monkeypatch) -> None:
    engine, requested, batch = features()
    view_counts: list[int] = []
    encode = engine.encoder

    def encode_and_count(views):
        view_counts.append(len(views))
        return encode(views)

    monkeypatch.setattr(engine, "encoder", encode_and_count)
    compute(batch, requested)
    assert sorted(view_counts) == [4, 12]  # four samples with one view, and with three views


def test_embeddings_are_float32_for_every_dtype_of_the_gradients() -> None:
    model, layers = build("attention projection, last block")
    in_half_precision = GradientEngine(model, find_targets(model, layers), device=CPU, dtype=torch.bfloat16)
    in_float32 = GradientEngine(model, device=CPU)
    assert embedding_feature(in_float32, in_half_precision, PreparedViews(1)).engine is in_float32
    assert embedding_feature(in_float32, None, PreparedViews(1)).engine is in_float32


def test_rows_that_are_not_finite_are_numbered_from_the_first_batch() -> None:
    check = FiniteCheck()
    assert check.bad_rows() == {}
    finite = torch.zeros(3, 2)
    not_finite = torch.tensor([[0.0, 0.0], [0.0, torch.inf], [torch.nan, 0.0]])
    check.add({"good": {"a": finite}, "bad": {"a": finite, "b": finite}})
    check.add({"good": {"a": finite}, "bad": {"a": finite, "b": not_finite}})
    assert check.bad_rows() == {"bad": [4, 5]}


def test_the_device_decides_the_default_of_views_per_forward() -> None:
    model, _ = build("attention projection, last block")
    assert GradientEngine(model, device=CPU).views_per_forward == VIEWS_ON_CPU
    assert GradientEngine(model, device=CPU, views_per_forward=3).views_per_forward == 3
