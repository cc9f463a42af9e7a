"""The laws of the engine for texts and sounds: gradients equal autograd and do not depend on the batch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fungi.backbones.encoders import Encoded
from fungi.data.formats.text_tables import text_samples
from fungi.gradients.engine import GradientEngine
from fungi.gradients.targets import Target, find_targets
from fungi.objectives.binding import BoundObjective, bind
from fungi.views.loading import prepare
from tests.daily import first_fast
from tests.modalities.cases import CASES, Case

CPU = torch.device("cpu")
# Float32 rounding of two layers; attention kernels sum padded batches in another order. Views of a text are very
# similar, so the gradient of their similarity is a difference of nearly equal terms and less precise.
SAME_DIRECTION, SAME_NORM = 1 - 1e-5, 2e-3
OBJECTIVES = ("kl", "simclr")


def bound_objectives(case: Case, published: bool = False) -> list[BoundObjective]:
    """Return both objectives; SimCLR has random negatives."""
    input_spec = case.spec.published_input if published else case.spec.input
    actual = []
    for name in OBJECTIVES:
        options = {"n_views": 3} if name == "simclr" else {}
        objective = bind(name, embedding_dim=24, input_spec=_like(case, input_spec), seed=1, options=options)
        latent = objective.objective.latent_dim
        negatives = torch.randn(5, latent, generator=torch.Generator().manual_seed(2))
        actual.append(objective.with_support({"negatives": negatives}))
    return actual


def _like(case: Case, input_spec: Any) -> Any:
    """Return the input of a profile with the tokenizer or the length of the small case."""
    from dataclasses import replace

    known = {"tokenizer", "frames"} & set(vars(input_spec))
    return replace(input_spec, **{name: getattr(case.spec.input, name) for name in known})


def batch_of_images(objective: BoundObjective, items: list[Any], names: list[str] | None = None) -> Any:
    names = names or [f"sample {place}" for place in range(len(items))]
    prepared = [prepare(objective.views, item, 42, name) for item, name in zip(items, names, strict=True)]
    return objective.views.collate(prepared)


def features(case: Case, model: Any, items: list[Any], names: list[str] | None = None, **options: Any) -> dict:
    """Return (objective, array) -> `[b ...]`, including the embeddings."""
    actual: dict[tuple[str, str], Tensor] = {}
    engine = GradientEngine(model, find_targets(model, case.layers), device=CPU, **options)
    for objective in bound_objectives(case):
        batch = batch_of_images(objective, items, names)
        extracted = engine.extract(batch, objective.views, {objective.name: objective.loss})
        actual[objective.name, "embeddings"] = extracted.embeddings
        actual |= {(objective.name, target): grad for target, grad in extracted.gradients[objective.name].items()}
    return actual


def assert_same(actual: Tensor, expected: Tensor, what: str) -> None:
    actual, expected = actual.double().flatten(1), expected.double().flatten(1)
    cosine = torch.nn.functional.cosine_similarity(actual, expected, dim=1)
    norms = actual.norm(dim=1) / expected.norm(dim=1)
    assert cosine.min() > SAME_DIRECTION, f"{what}: cosine {cosine.tolist()}"
    assert (norms - 1).abs().max() < SAME_NORM, f"{what}: relative norms {norms.tolist()}"


@pytest.mark.parametrize("name", first_fast(CASES, 2))
def test_features_of_an_item_do_not_depend_on_longer_items_in_the_batch(name: str) -> None:
    case = CASES[name]
    model, items = case.model(), case.items()
    together = features(case, model, items, views_per_forward=1000)
    for place, item in enumerate(items):
        alone = features(case, model, [item], [f"sample {place}"])
        for key, values in alone.items():
            assert_same(values, together[key][place : place + 1], f"{key} of item {place}")


@pytest.mark.parametrize("name", first_fast(CASES, 2))
def test_groups_of_similar_length_keep_the_order_of_the_batch(name: str) -> None:
    case = CASES[name]
    model, items = case.model(), case.items()
    together, grouped = (features(case, model, items, views_per_forward=count) for count in (1000, 6))
    for key, values in together.items():
        assert_same(values, grouped[key], str(key))


@pytest.mark.parametrize("published", [False, True], ids=["clean", "published"])
@pytest.mark.parametrize("name", first_fast(CASES, 2))
def test_gradients_equal_autograd_on_single_items(name: str, published: bool) -> None:
    case = CASES[name]
    model, items = case.model(), case.items()
    targets = find_targets(model, case.layers)
    engine = GradientEngine(model, targets, device=CPU)
    for objective in bound_objectives(case, published):
        batch = batch_of_images(objective, items)
        actual = engine.extract(batch, objective.views, {"loss": objective.loss}).gradients["loss"]
        for place, item in enumerate(items):
            alone = batch_of_images(objective, [item], [f"sample {place}"])
            expected = autograd_gradients(model, targets, objective, alone)
            for target in targets:
                flat = actual[target.name][place : place + 1]
                assert_same(flat, expected[target.name].reshape(1, -1), f"{objective.name} of item {place}")


def autograd_gradients(
    model: Any, targets: tuple[Target, ...], objective: BoundObjective, batch: Any
) -> dict[str, Tensor]:
    """Return the gradients of an item's loss, from autograd over the parameters in float64."""
    inputs = objective.views.render(
        {k: v for k, v in batch.items() if k != "truncated"} if isinstance(batch, dict) else batch
    )
    inputs = inputs if isinstance(inputs, dict) else inputs.double()
    model.double()
    heads = {name: tensor.double() for name, tensor in objective.support.items()}
    doubled = BoundObjective(objective.objective, objective.views, objective.heads.double(), heads)
    actual = {}
    for target in targets:
        parameters = [p for p in (target.module.weight, target.module.bias) if p is not None]
        for parameter in parameters:
            parameter.requires_grad_(True)
        embeddings = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        derivatives = torch.autograd.grad(doubled.loss(Encoded(embeddings.unsqueeze(0))).sum(), parameters)
        actual[target.name] = torch.cat([derivatives[0], *(bias.unsqueeze(1) for bias in derivatives[1:])], dim=1)
        for parameter in parameters:
            parameter.requires_grad_(False)
    model.float()
    objective.heads.float()
    return actual


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].spec.modality == "text"])
def test_padding_has_no_gradient(name: str) -> None:
    from fungi.gradients.capture import Capture

    case = CASES[name]
    model = case.model()
    objective = bound_objectives(case)[0]
    batch = batch_of_images(objective, case.items())
    inputs = {name: batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask")}
    targets = find_targets(model, case.layers)
    with torch.enable_grad(), Capture(model, targets) as capture:
        losses = objective.loss(Encoded(model(**inputs).unsqueeze(1)))
        signals = capture.signals([losses], [torch.ones_like(losses)], keep_graph=False)
    padding = inputs["attention_mask"] == 0
    assert padding.any()
    for target in targets:
        (signal,) = signals[target.path]
        assert (signal[padding] == 0).all()
        assert (signal[~padding] != 0).any()


def test_first_token_gradient_keeps_only_the_part_of_the_first_token() -> None:
    case = CASES["ssast, leading tokens"]
    model = case.model()
    everything = features(case, model, case.items())["kl", "attn_proj"]
    first = features(case, model, case.items(), first_token_gradient=True)["kl", "attn_proj"]
    batch = batch_of_images(bound_objectives(case)[0], case.items())
    expected = _first_token_oracle(case, model, batch)
    assert_same(first, expected, "first token")
    assert ((everything - first).norm(dim=1) > 0.2 * everything.norm(dim=1)).all()  # the part of the other token


def _first_token_oracle(case: Case, model: Any, batch: Tensor) -> Tensor:
    """Return the gradient from autograd with the layer's output for all other tokens detached."""
    objective = bound_objectives(case)[0]
    layer = model.get_submodule(case.layers[0])
    inputs = objective.views.render(batch)

    def cut(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], output[:, 1:].detach()], dim=1)

    handle = layer.register_forward_hook(cut)
    rows = []
    for place in range(len(inputs)):
        layer.requires_grad_(True)
        loss = objective.loss(Encoded(model(inputs[place : place + 1]).unsqueeze(0))).sum()
        weight, bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
        rows.append(torch.cat([weight, bias.unsqueeze(1)], dim=1).flatten())
    handle.remove()
    layer.requires_grad_(False)
    return torch.stack(rows)


def test_changed_texts_have_another_fingerprint() -> None:
    before = text_samples(["a", "b"], [0, 1], ["train/0", "train/1"])
    after = text_samples(["a", "c"], [0, 1], ["train/0", "train/1"])
    assert before.fingerprint() != after.fingerprint()
