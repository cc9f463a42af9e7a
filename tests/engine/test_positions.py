"""Laws of dense gradients: a gradient for every position of the layer instead of a gradient for the sample."""

import pytest
import torch
from torch import Tensor, nn

from fungi.backbones.encoders import Encoded, TokenEncoder
from fungi.gradients import engine as engines
from fungi.gradients.engine import GradientEngine
from fungi.gradients.khatri_rao import KhatriRaoProjector
from fungi.gradients.projection import DenseProjector, draw_projection
from fungi.gradients.targets import find_targets
from fungi.gradients.terms import EachPosition
from tests.engine.golden import PreparedViews
from tests.engine.models import build, contrast

CPU = torch.device("cpu")
# Name of the network, gradient source, number of positions.
LAYERS = [
    ("earlier block", "blocks.0.attn.proj", 5),
    ("fused qkv", "blocks.1.attn.qkv[v]", 5),
    ("convolutions", "grouped", 64),
]


def images(samples: int) -> Tensor:
    """Return random images, one view per sample: `[samples 1 3 16 16]`."""
    return torch.randn(samples, 1, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def token_contrast(encoded: Encoded) -> Tensor:
    """Return a loss per sample `[b]` that depends on all tokens."""
    tokens = torch.nn.functional.normalize(encoded.tokens, dim=-1).flatten(1, 2)
    return torch.logsumexp(tokens @ tokens.mT, dim=-1).mean(dim=-1)


def gradients(model: nn.Module, layer: str, batch: Tensor, **options: object) -> Tensor:
    """Return the gradients of a layer. options: arguments of the engine."""
    engine = GradientEngine(model, find_targets(model, (f"{layer}:x",)), device=CPU, **options)  # type: ignore[arg-type]
    return engine.extract(batch, PreparedViews(1), {"loss": contrast}).gradients["loss"]["x"]


@pytest.mark.parametrize(("case", "layer", "positions"), LAYERS)
def test_gradients_of_positions_add_up_to_the_gradient_of_the_sample(case: str, layer: str, positions: int) -> None:
    model, _ = build(case)
    of_sample = gradients(model, layer, images(3))
    of_positions = gradients(model, layer, images(3), positions=EachPosition())
    assert of_positions.shape == (3, positions, of_sample.shape[1])
    tolerance = 1e-5 * float(of_sample.abs().max())
    torch.testing.assert_close(of_positions.sum(dim=1), of_sample, rtol=1e-4, atol=tolerance)


def test_the_gradient_of_a_position_equals_autograd_for_its_token() -> None:
    """Compare with autograd in float64, in a model with a separate weight for every token."""
    model, _ = build("earlier block")
    layer = model.get_submodule("blocks.0.attn.proj")
    engine = GradientEngine(
        model, find_targets(model, ("blocks.0.attn.proj",)), device=CPU, positions=EachPosition(prefix=1)
    )
    batch, token_engine = images(2), engine.with_encoder(TokenEncoder)
    extracted = token_engine.extract(batch, PreparedViews(1), {"loss": token_contrast})
    actual = extracted.gradients["loss"]["attn_proj"]
    model.double()
    for sample, gradient in zip(batch.double(), actual, strict=True):
        weights = torch.stack([layer.weight] * 5).requires_grad_()  # [t o i]: a class token and four patches
        handle = layer.register_forward_hook(
            lambda module, inputs, output: torch.einsum("nti,toi->nto", inputs[0], weights) + module.bias  # noqa: B023
        )
        tokens = model.forward_features(sample)
        handle.remove()
        loss = token_contrast(Encoded(tokens[None, :, 0], tokens[None, :, 1:])).sum()
        (expected,) = torch.autograd.grad(loss, weights)
        of_weight = gradient.unflatten(1, (24, 25))[..., :-1]  # without the column of the bias
        tolerance = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(of_weight.double(), expected[1:], rtol=1e-3, atol=tolerance)
    model.float()


@pytest.mark.parametrize("gradients_per_product", [1, 4, 1000])
def test_projected_positions_do_not_depend_on_the_gradients_per_product(
    gradients_per_product: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = build("earlier block")
    projector = DenseProjector(draw_projection(16, 600), CPU, torch.float32)
    raw = gradients(model, "blocks.0.attn.proj", images(3), positions=EachPosition(prefix=1))
    monkeypatch.setattr(engines, "GRADIENTS_TOGETHER", gradients_per_product)
    actual = gradients(
        model,
        "blocks.0.attn.proj",
        images(3),
        positions=EachPosition(prefix=1),
        projectors={"x": projector},
        views_per_forward=2,
    )
    expected = raw @ draw_projection(16, 600).dense().T / 16**0.5
    assert actual.shape == (3, 4, 16)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("case", "layer"), [(case, layer) for case, layer, _ in LAYERS])
def test_the_khatri_rao_projection_equals_the_product_with_its_dense_matrix(case: str, layer: str) -> None:
    model, _ = build(case)
    (target,) = find_targets(model, (f"{layer}:x",))
    matrix = draw_projection(16, target.gradient_dim, kind="khatri-rao", outputs=target.shape[0])
    for positions in (None, EachPosition()):
        actual, expected = (
            gradients(
                model,
                layer,
                images(3),
                positions=positions,
                projectors={"x": projector_class(matrix, CPU, torch.float32)},
            )
            for projector_class in (KhatriRaoProjector, DenseProjector)
        )
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_encoded_tokens_are_equal_with_and_without_gradients() -> None:
    model, _ = build("earlier block")
    engine = GradientEngine(model, find_targets(model, ("blocks.0.attn.proj",)), device=CPU, views_per_forward=2)
    batch, token_engine = images(3), engine.with_encoder(TokenEncoder)
    without_gradients = token_engine.encode(batch, PreparedViews(1))
    with_gradients = token_engine.extract(batch, PreparedViews(1), {"loss": token_contrast}).encoded
    expected = model.forward_features(batch[:, 0]).unsqueeze(1)
    for encoded in (without_gradients, with_gradients):
        assert encoded.mask is None
        torch.testing.assert_close(encoded.tokens, expected, rtol=1e-4, atol=1e-5)
