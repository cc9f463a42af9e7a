"""Laws of the engine: gradients equal autograd and do not depend on the batch, and the model is not changed."""

import pytest
import torch
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded
from fungi.errors import FungiError
from fungi.gradients.engine import GradientEngine
from fungi.gradients.projection import DenseProjector, draw_projection
from fungi.gradients.targets import find_targets
from tests.daily import slow_after_first
from tests.engine.golden import PreparedViews
from tests.engine.models import CASES, autograd_gradient, build, contrast

CPU = torch.device("cpu")
# Tolerances for rounding of a forward and a backward pass in float32.
SMALLEST_COSINE, LARGEST_NORM_DIFFERENCE = 1 - 1e-5, 1e-4


def views_of(samples: int, n_views: int = 3, size: int = 16) -> Tensor:
    """Return random views `[samples n_views 3 size size]`."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, n_views, 3, size, size, generator=generator)


def raw_gradients(model: nn.Module, layers: tuple[str, ...], views: Tensor, bias: bool = True) -> dict[str, Tensor]:
    """Return layer -> its gradients `[b o*(i+1)]`, without projection."""
    engine = GradientEngine(model, find_targets(model, layers, bias=bias), device=CPU)
    return engine.extract(views, PreparedViews(views.shape[1]), {"contrast": contrast}).gradients["contrast"]


def assert_same_gradient(actual: Tensor, expected: Tensor) -> None:
    """Compare direction and norm of the last axis of two tensors."""
    cosine = torch.nn.functional.cosine_similarity(actual.double(), expected.double(), dim=-1)
    ratio = actual.double().norm(dim=-1) / expected.double().norm(dim=-1)
    assert cosine.min() > SMALLEST_COSINE, f"cosine {cosine.min():.7f}"
    assert (ratio - 1).abs().max() < LARGEST_NORM_DIFFERENCE, f"norms differ by a factor of {ratio}"


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("bias", [True, False], ids=["with bias", "without bias"])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_every_sample_equals_plain_autograd(case: str, bias: bool) -> None:
    model, layers = build(case)
    views = views_of(2)
    actual = raw_gradients(model, layers, views, bias)
    for target in find_targets(model, layers, bias=bias):
        expected = torch.stack([autograd_gradient(model, target, sample, contrast).flatten() for sample in views])
        assert_same_gradient(actual[target.name], expected)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("case", slow_after_first(CASES, 3))
def test_the_gradient_of_a_sample_does_not_depend_on_the_batch(case: str) -> None:
    model, layers = build(case)
    views = views_of(4)
    for name, gradients in raw_gradients(model, layers, views).items():
        gradients_of_single_samples = [raw_gradients(model, layers, sample.unsqueeze(0))[name] for sample in views]
        assert_same_gradient(gradients, torch.cat(gradients_of_single_samples))


@pytest.mark.parametrize("case", slow_after_first(CASES, 3))
def test_gradients_do_not_depend_on_the_order_of_samples(case: str) -> None:
    model, layers = build(case)
    views = views_of(4)
    in_reverse_order = raw_gradients(model, layers, views.flip(0))
    for name, gradients in raw_gradients(model, layers, views).items():
        assert_same_gradient(gradients, in_reverse_order[name].flip(0))


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("views_per_forward", [1, 3, 7, 100])
def test_gradients_do_not_depend_on_the_number_of_views_per_forward(views_per_forward: int) -> None:
    model, layers = build("attention projection, last block")
    targets = find_targets(model, layers)
    gradients, expected = (
        GradientEngine(model, targets, device=CPU, views_per_forward=count)
        .extract(views_of(5), PreparedViews(3), {"contrast": contrast})
        .gradients["contrast"]["attn_proj"]
        for count in (views_per_forward, 15)
    )
    assert_same_gradient(gradients, expected)


def test_losses_that_share_a_forward_pass_do_not_change_each_other() -> None:
    model, layers = build("several layers")
    engine = GradientEngine(model, find_targets(model, layers), device=CPU)
    losses = {"contrast": contrast, "square": lambda encoded: encoded.pooled.square().sum(dim=(1, 2))}
    gradients_of_both = engine.extract(views_of(2), PreparedViews(3), losses).gradients
    for name, loss in losses.items():
        expected = engine.extract(views_of(2), PreparedViews(3), {name: loss}).gradients[name]
        for layer, gradients in expected.items():
            assert torch.equal(gradients_of_both[name][layer], gradients)


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_not_changed(case: str) -> None:
    model, layers = build(case)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    views = views_of(2)
    outputs = model(views[0])
    raw_gradients(model, layers, views)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all("forward" not in vars(module) for module in model.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert not model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(views[0]), outputs)


def test_hooks_are_removed_if_a_loss_fails() -> None:
    model, layers = build("torch attention")

    def failing(encoded: Encoded) -> Tensor:
        raise RuntimeError("no loss")

    engine = GradientEngine(model, find_targets(model, layers), device=CPU)
    with pytest.raises(RuntimeError, match="no loss"):
        engine.extract(views_of(1), PreparedViews(3), {"failing": failing})
    assert all(not module._forward_hooks and "forward" not in vars(module) for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("batch_first", [True, False])
def test_torch_attention_has_the_same_output_if_its_projection_is_called_as_a_module(batch_first: bool) -> None:
    from fungi.gradients.attention import output_projection_as_module

    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(embed_dim=12, num_heads=3, batch_first=batch_first).eval()
        tokens = torch.randn(2, 5, 12)
    tokens = tokens if batch_first else tokens.transpose(0, 1)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    causal = torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1)
    for masks in ({}, {"key_padding_mask": padding}, {"attn_mask": causal}):
        expected, _ = attention(tokens, tokens, tokens, need_weights=False, **masks)
        with output_projection_as_module([attention]):
            outputs, _ = attention(tokens, tokens, tokens, need_weights=False, **masks)
        torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)


class UnusualLayers(nn.Module):
    """A model with layers that are called twice, are not called, or have no effect on the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * 16 * 16, 8)
        self.shared = nn.Linear(8, 8)
        self.unused = nn.Linear(4, 4)
        self.without_effect = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images.flatten(1))
        self.without_effect(x)
        return self.shared(self.shared(x))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("shared", "used several times in one forward pass"),
        ("unused", "was not called as a module in the forward pass"),
        ("without_effect", "gets no gradient: the embedding does not depend on its output"),
    ],
)
def test_layers_without_a_unique_gradient_are_refused(layer: str, message: str) -> None:
    model = UnusualLayers().requires_grad_(False)
    with pytest.raises(FungiError, match=f"{layer}.*({message})"):
        raw_gradients(model, ("first", layer), views_of(1))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("blocks.1.attn.prj", r"does not exist.*Candidates: blocks.1.attn.proj"),
        ("blocks.1.norm1", r"is a LayerNorm\. A gradient source has to be Linear or Conv2d"),
        ("blocks.1.attn.proj[q]", r"is not a fused qkv layer"),
        ("blocks.1.attn.qkv[z]", r"part 'z' is not one of q, k, v"),
        ("a b", r"is not of the form path.to.layer:name"),
    ],
)
def test_layers_that_cannot_be_gradient_sources_are_refused(layer: str, message: str) -> None:
    model, _ = build("fused qkv")
    with pytest.raises(FungiError, match=message):
        find_targets(model, (layer,))


def test_two_layers_with_the_same_name_are_refused() -> None:
    model, _ = build("fused qkv")
    with pytest.raises(FungiError, match="two layers have the name 'x'"):
        find_targets(model, ("blocks.0.attn.proj:x", "blocks.1.attn.proj:x"))


def test_a_path_can_start_with_backbone_and_the_default_name_has_two_parts_of_the_path() -> None:
    model, _ = build("fused qkv")
    (target,) = find_targets(model, ("backbone.blocks.1.attn.proj",))
    assert (target.path, target.name) == ("blocks.1.attn.proj", "attn_proj")


def test_the_error_for_a_projection_of_the_wrong_width_names_both_widths() -> None:
    model, layers = build("attention projection, last block")
    projector = DenseProjector(draw_projection(projection_dim=4, gradient_dim=7), CPU, torch.float32)
    with pytest.raises(FungiError, match=r"7 entries.*600 \(24 x 25\).*--gradients-dim 600"):
        GradientEngine(model, find_targets(model, layers), {"attn_proj": projector}, device=CPU)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_have_the_same_direction(dtype: torch.dtype) -> None:
    model, layers = build("attention projection, last block")
    targets = find_targets(model, layers)

    def gradients(engine_dtype: torch.dtype) -> Tensor:
        engine = GradientEngine(model, targets, device=CPU, dtype=engine_dtype)
        return engine.extract(views_of(3), PreparedViews(3), {"contrast": contrast}).gradients["contrast"]["attn_proj"]

    in_half_precision, in_float32 = gradients(dtype), gradients(torch.float32)
    assert in_half_precision.dtype == torch.float32
    smallest_cosine = 0.995 if dtype == torch.bfloat16 else 0.9999  # precision of 8 bits and of 11 bits
    assert torch.nn.functional.cosine_similarity(in_half_precision, in_float32).min() > smallest_cosine
    assert (in_half_precision.norm(dim=1) / in_float32.norm(dim=1) - 1).abs().max() < 0.1
