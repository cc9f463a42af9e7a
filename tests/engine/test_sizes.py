"""Laws of views of several sizes in one batch: one loss over all latents, gradients of all sizes summed."""

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
SIZES = (16, 16, 24, 24, 24, 8)
Batch = dict[str, Tensor]


class SeveralSizes:
    """Two views of 16 pixels, three of 24 and one of 8: a batch is a dictionary of tensors `[b v c s s]` by size."""

    kind = identity = "of sizes"
    n_views, sizes, input_size = len(SIZES), SIZES, 16

    def prepare(self, item: Batch) -> Batch:
        return item

    def collate(self, prepared: list[Batch]) -> Batch:
        return {name: torch.stack([sample[name] for sample in prepared]) for name in prepared[0]}

    def render(self, batch: Batch) -> list[Tensor]:
        return [views.flatten(0, 1) for views in batch.values()]


def views_of(samples: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    counts = {16: 2, 24: 3, 8: 1}
    return {str(s): torch.randn(samples, n, 3, s, s, generator=generator) for s, n in counts.items()}


def part_of(batch: Batch, rows: slice) -> Batch:
    return {name: views[rows] for name, views in batch.items()}


def raw_gradients(model: nn.Module, layers: tuple[str, ...], batch: Batch, **options: object) -> dict[str, Tensor]:
    engine = GradientEngine(model, find_targets(model, layers), device=CPU, **options)
    return engine.extract(batch, SeveralSizes(), {"contrast": contrast}).gradients["contrast"]


def any_size(model: nn.Module) -> nn.Module:
    """The same network for images of any size, in float64: timm scales the positions in every forward pass."""
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(model, VisionTransformer):
        model.dynamic_img_size, model.patch_embed.strict_img_size, model.patch_embed.flatten = True, False, False
        model.patch_embed.output_fmt = type(model.patch_embed.output_fmt)("NHWC")
    return model.double()


def slow_gradient(model: nn.Module, layer: str, batch: Batch) -> Tensor:
    """Gradient of one sample's loss by autograd over the parameters, `[o*(i+1)]`."""
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
    oracle, _ = build(case)
    actual, oracle = raw_gradients(model, layers, views_of(2)), any_size(oracle)
    for target in find_targets(model, layers):
        layer = target.spec + f":{target.name}"
        expected = torch.stack([slow_gradient(oracle, layer, part_of(views_of(2), slice(n, n + 1))) for n in (0, 1)])
        assert_same_gradient(actual[target.name], expected)


@pytest.mark.parametrize("views_per_forward", [1, 12, 100])
def test_gradients_do_not_depend_on_batch_grouping_or_order(views_per_forward: int) -> None:
    model, layers = build("attention projection, last block")
    batch = views_of(5)
    together = raw_gradients(model, layers, batch)["attn_proj"]
    grouped = raw_gradients(model, layers, batch, views_per_forward=views_per_forward)["attn_proj"]
    alone = [raw_gradients(model, layers, part_of(batch, slice(n, n + 1)))["attn_proj"] for n in range(5)]
    turned = raw_gradients(model, layers, {name: views.flip(0) for name, views in batch.items()})["attn_proj"]
    for other in (grouped, torch.cat(alone), turned.flip(0)):
        assert_same_gradient(together, other)


def test_the_short_cut_equals_the_whole_model() -> None:
    model, layers = build("attention projection, last block")
    engines = [GradientEngine(model, find_targets(model, layers), device=CPU, short_cut=on) for on in (True, False)]
    assert [engine.encoder.path for engine in engines] == ["pooled token", "whole model"]
    actual = [engine.extract(views_of(3), SeveralSizes(), {"contrast": contrast}) for engine in engines]
    assert_same_gradient(*(extracted.gradients["contrast"]["attn_proj"] for extracted in actual))
    torch.testing.assert_close(actual[0].embeddings, actual[1].embeddings, rtol=1e-4, atol=1e-5)


def test_a_projection_of_outer_products_takes_several_sizes() -> None:
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
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = GradientEngine(model, find_targets(model, layers), device=CPU)
    first = engine.extract(views_of(2), SeveralSizes(), {"contrast": contrast})
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }
    assert all(not module._forward_hooks for module in model.modules())
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 24)
    with torch.no_grad():
        model.pos_embed.mul_(2)
    again = engine.extract(views_of(2), SeveralSizes(), {"contrast": contrast})
    fresh = GradientEngine(model, find_targets(model, layers), device=CPU)
    assert not torch.equal(again.embeddings, first.embeddings)
    assert torch.equal(again.embeddings, fresh.extract(views_of(2), SeveralSizes(), {"contrast": contrast}).embeddings)


class OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    model = SwinTransformer(16, 2, num_classes=0, embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=4)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "layer", "complaint"),
    [
        (
            lambda: OneSize().requires_grad_(False),
            "layer",
            "a OneSize takes images of its own size only",
        ),
        (swin, "layers.1.blocks.0.attn.proj", "a SwinTransformer takes images of its own size only"),
    ],
)
def test_the_error_for_models_of_one_size_names_the_flag(
    model: Callable[[], nn.Module], layer: str, complaint: str
) -> None:
    with pytest.raises(FungiError, match=f"{complaint}.*--views published"):
        raw_gradients(model(), (layer,), views_of(1))


def test_the_error_for_a_size_between_multiples_of_the_patch_size_names_the_nearest() -> None:
    model, layers = build("attention projection, last block")
    views = SeveralSizes()
    views.sizes = (16, 20)
    engine = GradientEngine(model, find_targets(model, layers), device=CPU)
    with pytest.raises(FungiError, match=r"size of 20 pixels is not a multiple of the model's patch size, 8.*16 or 24"):
        engine.embed(views_of(1), views)
