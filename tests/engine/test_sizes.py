"""Laws of batches with views of several sizes: a loss of all views, whose gradient is a sum over the sizes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded
from fungi.errors import FungiError
from fungi.gradients.engine import GradientEngine
from fungi.gradients.khatri_rao import make_projector
from fungi.gradients.projection import draw_projection
from fungi.gradients.targets import find_targets
from tests.engine.models import CASES, build, contrast
from tests.engine.test_laws import assert_same_gradient

CPU = torch.device("cpu")
SIZES = (16, 16, 24, 24, 24, 8)  # of each view, in pixels
Batch = dict[str, Tensor]
"""Size -> views `[b v c s s]`."""


class SeveralSizes:
    """A generator of two views of 16 pixels, three of 24 pixels and one of 8 pixels."""

    kind = identity = "of sizes"
    n_views, sizes, input_size = len(SIZES), SIZES, 16

    def prepare(self, item: Batch) -> Batch:
        return item

    def collate(self, prepared: list[Batch]) -> Batch:
        return {name: torch.stack([sample[name] for sample in prepared]) for name in prepared[0]}

    def render(self, batch: Batch) -> list[Tensor]:
        return [views.flatten(0, 1) for views in batch.values()]


def views_of(samples: int) -> Batch:
    """Return random views."""
    generator = torch.Generator().manual_seed(1)
    counts = {16: 2, 24: 3, 8: 1}
    return {str(size): torch.randn(samples, n, 3, size, size, generator=generator) for size, n in counts.items()}


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Return the views of some samples of a batch."""
    return {name: views[rows] for name, views in batch.items()}


def raw_gradients(model: nn.Module, layers: tuple[str, ...], batch: Batch, **options: object) -> dict[str, Tensor]:
    """Return layer -> its gradients `[b o*(i+1)]`, without projection."""
    engine = GradientEngine(model, find_targets(model, layers), device=CPU, **options)
    return engine.extract(batch, SeveralSizes(), {"contrast": contrast}).gradients["contrast"]


def for_all_sizes(model: nn.Module) -> nn.Module:
    """Change a network so that it accepts images of all sizes, and return it in float64.

    timm then resizes the position embedding in every forward pass.
    """
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(model, VisionTransformer):
        model.dynamic_img_size, model.patch_embed.strict_img_size, model.patch_embed.flatten = True, False, False
        model.patch_embed.output_fmt = type(model.patch_embed.output_fmt)("NHWC")
    return model.double()


def slow_gradient(model: nn.Module, layer: str, batch: Batch) -> Tensor:
    """Return the gradient of the loss of one sample, `[o*(i+1)]`, computed by autograd on the parameters."""
    (target,) = find_targets(model, (layer,))
    parameters = [target.module.weight] + ([target.module.bias] if target.bias else [])
    for parameter in parameters:
        parameter.requires_grad_(True)
    embeddings = torch.cat([model(views[0].double()) for views in batch.values()])
    derivatives = torch.autograd.grad(contrast(Encoded(embeddings.unsqueeze(0))).sum(), parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    columns = [derivatives[0].flatten(1), *(bias.unsqueeze(1) for bias in derivatives[1:])]
    return torch.cat(columns, dim=1)[target.rows].flatten()


@pytest.mark.parametrize("case", [case for case in CASES if case != "torch attention"])
def test_gradients_over_several_sizes_equal_plain_autograd(case: str) -> None:
    model, layers = build(case)
    copy, _ = build(case)
    actual, oracle = raw_gradients(model, layers, views_of(2)), for_all_sizes(copy)
    for target in find_targets(model, layers):
        layer = target.spec + f":{target.name}"
        samples = [rows_of(views_of(2), slice(row, row + 1)) for row in (0, 1)]
        expected = torch.stack([slow_gradient(oracle, layer, sample) for sample in samples])
        assert_same_gradient(actual[target.name], expected)


@pytest.mark.parametrize("views_per_forward", [1, 12, 100])
def test_gradients_do_not_depend_on_the_batch_the_groups_or_the_order_of_samples(views_per_forward: int) -> None:
    model, layers = build("attention projection, last block")
    batch = views_of(5)
    gradients = raw_gradients(model, layers, batch)["attn_proj"]
    in_groups = raw_gradients(model, layers, batch, views_per_forward=views_per_forward)["attn_proj"]
    single_samples = [rows_of(batch, slice(row, row + 1)) for row in range(5)]
    of_single_samples = torch.cat([raw_gradients(model, layers, sample)["attn_proj"] for sample in single_samples])
    reversed_batch = {name: views.flip(0) for name, views in batch.items()}
    in_reverse_order = raw_gradients(model, layers, reversed_batch)["attn_proj"]
    for other_gradients in (in_groups, of_single_samples, in_reverse_order.flip(0)):
        assert_same_gradient(gradients, other_gradients)


def test_the_short_cut_equals_the_complete_model() -> None:
    model, layers = build("attention projection, last block")
    engines = [GradientEngine(model, find_targets(model, layers), device=CPU, short_cut=on) for on in (True, False)]
    assert [engine.encoder.computed_part for engine in engines] == ["pooled token", "whole model"]
    short_cut, complete = (engine.extract(views_of(3), SeveralSizes(), {"contrast": contrast}) for engine in engines)
    assert_same_gradient(short_cut.gradients["contrast"]["attn_proj"], complete.gradients["contrast"]["attn_proj"])
    torch.testing.assert_close(short_cut.embeddings, complete.embeddings, rtol=1e-4, atol=1e-5)


def test_the_khatri_rao_projection_accepts_several_sizes() -> None:
    model, layers = build("attention projection, last block")
    (target,) = find_targets(model, layers)
    matrix = draw_projection(12, target.gradient_dim, kind="khatri-rao", outputs=target.shape[0])
    projector = make_projector(matrix, CPU, torch.float32)
    engine = GradientEngine(model, [target], {target.name: projector}, device=CPU)
    actual = engine.extract(views_of(2), SeveralSizes(), {"contrast": contrast}).gradients["contrast"][target.name]
    raw = raw_gradients(model, layers, views_of(2))[target.name]
    assert_same_gradient(actual, raw @ projector.entries.T / 12**0.5)


def test_the_model_is_not_changed_and_new_weights_are_used() -> None:
    model, layers = build("several layers")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    engine = GradientEngine(model, find_targets(model, layers), device=CPU)
    first = engine.extract(views_of(2), SeveralSizes(), {"contrast": contrast})
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(not module._forward_hooks for module in model.modules())
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 24)
    with torch.no_grad():
        model.pos_embed.mul_(2)
    second = engine.extract(views_of(2), SeveralSizes(), {"contrast": contrast})
    new_engine = GradientEngine(model, find_targets(model, layers), device=CPU)
    expected = new_engine.extract(views_of(2), SeveralSizes(), {"contrast": contrast})
    assert not torch.equal(second.embeddings, first.embeddings)
    assert torch.equal(second.embeddings, expected.embeddings)


class FixedSize(nn.Module):
    """A model that accepts only images of 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def swin() -> nn.Module:
    """Return a small Swin transformer, whose windows need a fixed image size."""
    from timm.models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        img_size=16, patch_size=2, num_classes=0, embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=4
    )
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (lambda: FixedSize().requires_grad_(False), "layer", "a FixedSize takes images of its own size only"),
        (swin, "layers.1.blocks.0.attn.proj", "a SwinTransformer takes images of its own size only"),
    ],
)
def test_the_error_for_models_of_a_fixed_image_size_names_the_flag(
    model: Callable[[], nn.Module], layer: str, message: str
) -> None:
    with pytest.raises(FungiError, match=f"{message}.*--views published"):
        raw_gradients(model(), (layer,), views_of(1))


def test_the_error_for_a_size_that_is_not_a_multiple_of_the_patch_size_names_the_nearest_multiples() -> None:
    model, layers = build("attention projection, last block")
    views = SeveralSizes()
    views.sizes = (16, 20)
    engine = GradientEngine(model, find_targets(model, layers), device=CPU)
    with pytest.raises(FungiError, match=r"size of 20 pixels is not a multiple of the model's patch size, 8.*16 or 24"):
        engine.embed(views_of(1), views)
