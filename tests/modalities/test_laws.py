"""Laws of the engine for texts and sounds: gradients equal autograd and do not depend on the batch."""

from dataclasses import replace
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
from tests.daily import slow_after_first
from tests.modalities.cases import CASES, Case

CPU = torch.device("cpu")
# Tolerances for rounding in float32: attention kernels sum padded batches in another order. Views of a text are very
# similar, so their SimCLR gradient is a difference of nearly equal terms, which is less precise.
SMALLEST_COSINE, LARGEST_NORM_DIFFERENCE = 1 - 1e-5, 2e-3
OBJECTIVES = ("kl", "simclr")


def bound_objectives(case: Case, published: bool = False) -> list[BoundObjective]:
    """Return the objectives KL and SimCLR. SimCLR has random negatives."""
    input_spec = case.spec.published_input if published else case.spec.input
    objectives = []
    for name in OBJECTIVES:
        options = {"n_views": 3} if name == "simclr" else {}
        objective = bind(
            name, embedding_dim=24, input_spec=_with_sizes_of_case(case, input_spec), seed=1, options=options
        )
        latent = objective.objective.latent_dim
        negatives = torch.randn(5, latent, generator=torch.Generator().manual_seed(2))
        objectives.append(objective.with_support({"negatives": negatives}))
    return objectives


def _with_sizes_of_case(case: Case, input_spec: Any) -> Any:
    """Return an input with the tokenizer or the number of frames of the case."""
    names = {"tokenizer", "frames"} & set(vars(input_spec))
    return replace(input_spec, **{name: getattr(case.spec.input, name) for name in names})


def batch_of(objective: BoundObjective, items: list[Any], names: list[str] | None = None) -> Any:
    """Return the collated views of some items. names: ids of the items, which seed the views."""
    names = names or [f"sample {row}" for row in range(len(items))]
    prepared = [
        prepare(objective.views, item, seed=42, sample_id=name) for item, name in zip(items, names, strict=True)
    ]
    return objective.views.collate(prepared)


def features(case: Case, model: Any, items: list[Any], names: list[str] | None = None, **options: Any) -> dict:
    """Return (objective, name) -> values `[b d]`, for every gradient source and for the embeddings."""
    values: dict[tuple[str, str], Tensor] = {}
    engine = GradientEngine(model, find_targets(model, case.layers), device=CPU, **options)
    for objective in bound_objectives(case):
        batch = batch_of(objective, items, names)
        extracted = engine.extract(batch, objective.views, {objective.name: objective.loss})
        values[objective.name, "embeddings"] = extracted.embeddings
        for target, gradients in extracted.gradients[objective.name].items():
            values[objective.name, target] = gradients
    return values


def assert_equal_up_to_rounding(actual: Tensor, expected: Tensor, name: str) -> None:
    """Compare direction and norm of each row. name: name of the values in the message."""
    actual, expected = actual.double().flatten(1), expected.double().flatten(1)
    cosine = torch.nn.functional.cosine_similarity(actual, expected, dim=1)
    ratios = actual.norm(dim=1) / expected.norm(dim=1)
    assert cosine.min() > SMALLEST_COSINE, f"{name}: cosine {cosine.tolist()}"
    assert (ratios - 1).abs().max() < LARGEST_NORM_DIFFERENCE, f"{name}: ratios of norms {ratios.tolist()}"


@pytest.mark.parametrize("name", slow_after_first(CASES, 2))
def test_features_of_an_item_do_not_depend_on_longer_items_in_the_batch(name: str) -> None:
    case = CASES[name]
    model, items = case.model(), case.items()
    values_of_batch = features(case, model, items, views_per_forward=1000)
    for row, item in enumerate(items):
        single = features(case, model, [item], [f"sample {row}"])
        for key, values in single.items():
            assert_equal_up_to_rounding(values, values_of_batch[key][row : row + 1], f"{key} of item {row}")


@pytest.mark.parametrize("name", slow_after_first(CASES, 2))
def test_groups_of_similar_length_keep_the_order_of_the_batch(name: str) -> None:
    case = CASES[name]
    model, items = case.model(), case.items()
    without_groups, with_groups = (features(case, model, items, views_per_forward=count) for count in (1000, 6))
    for key, values in without_groups.items():
        assert_equal_up_to_rounding(values, with_groups[key], str(key))


@pytest.mark.parametrize("published", [False, True], ids=["clean", "published"])
@pytest.mark.parametrize("name", slow_after_first(CASES, 2))
def test_gradients_equal_autograd_on_single_items(name: str, published: bool) -> None:
    case = CASES[name]
    model, items = case.model(), case.items()
    targets = find_targets(model, case.layers)
    engine = GradientEngine(model, targets, device=CPU)
    for objective in bound_objectives(case, published):
        batch = batch_of(objective, items)
        actual = engine.extract(batch, objective.views, {"loss": objective.loss}).gradients["loss"]
        for row, item in enumerate(items):
            single = batch_of(objective, [item], [f"sample {row}"])
            expected = autograd_gradients(model, targets, objective, single)
            for target in targets:
                gradient = actual[target.name][row : row + 1]
                expected_gradient = expected[target.name].reshape(1, -1)
                assert_equal_up_to_rounding(gradient, expected_gradient, f"{objective.name} of item {row}")


def autograd_gradients(
    model: Any, targets: tuple[Target, ...], objective: BoundObjective, batch: Any
) -> dict[str, Tensor]:
    """Return the gradients of the loss of an item, computed by autograd on the parameters in float64."""
    if isinstance(batch, dict):
        inputs = objective.views.render({name: values for name, values in batch.items() if name != "truncated"})
    else:
        inputs = objective.views.render(batch).double()
    model.double()
    support = {name: tensor.double() for name, tensor in objective.support.items()}
    objective_in_float64 = BoundObjective(objective.objective, objective.views, objective.heads.double(), support)
    gradients = {}
    for target in targets:
        parameters = [parameter for parameter in (target.module.weight, target.module.bias) if parameter is not None]
        for parameter in parameters:
            parameter.requires_grad_(True)
        embeddings = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        derivatives = torch.autograd.grad(objective_in_float64.loss(Encoded(embeddings.unsqueeze(0))).sum(), parameters)
        gradients[target.name] = torch.cat([derivatives[0], *(bias.unsqueeze(1) for bias in derivatives[1:])], dim=1)
        for parameter in parameters:
            parameter.requires_grad_(False)
    model.float()
    objective.heads.float()
    return gradients


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].spec.modality == "text"])
def test_padding_has_no_gradient(name: str) -> None:
    from fungi.gradients.capture import Capture

    case = CASES[name]
    model = case.model()
    objective = bound_objectives(case)[0]
    batch = batch_of(objective, case.items())
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


def test_the_first_token_gradient_has_only_the_part_of_the_first_token() -> None:
    case = CASES["ssast, leading tokens"]
    model = case.model()
    of_all_tokens = features(case, model, case.items())["kl", "attn_proj"]
    of_first_token = features(case, model, case.items(), first_token_gradient=True)["kl", "attn_proj"]
    batch = batch_of(bound_objectives(case)[0], case.items())
    expected = _first_token_oracle(case, model, batch)
    assert_equal_up_to_rounding(of_first_token, expected, "first token")
    of_other_tokens = of_all_tokens - of_first_token
    # The other tokens contribute a large part, so that the two gradients differ clearly.
    assert (of_other_tokens.norm(dim=1) > 0.2 * of_all_tokens.norm(dim=1)).all()


def _first_token_oracle(case: Case, model: Any, batch: Tensor) -> Tensor:
    """Return the gradients by autograd if the layer detaches its outputs for all tokens except the first."""
    objective = bound_objectives(case)[0]
    layer = model.get_submodule(case.layers[0])
    inputs = objective.views.render(batch)

    def detach_other_tokens(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], output[:, 1:].detach()], dim=1)

    handle = layer.register_forward_hook(detach_other_tokens)
    rows = []
    for row in range(len(inputs)):
        layer.requires_grad_(True)
        loss = objective.loss(Encoded(model(inputs[row : row + 1]).unsqueeze(0))).sum()
        weight, bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
        rows.append(torch.cat([weight, bias.unsqueeze(1)], dim=1).flatten())
    handle.remove()
    layer.requires_grad_(False)
    return torch.stack(rows)


def test_changed_texts_have_another_fingerprint() -> None:
    samples = text_samples(["a", "b"], [0, 1], ["train/0", "train/1"])
    changed_samples = text_samples(["a", "c"], [0, 1], ["train/0", "train/1"])
    assert samples.fingerprint() != changed_samples.fingerprint()
