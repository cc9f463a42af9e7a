"""A residual stream in bfloat16: only before the gradient source, with accurate gradients and less memory traffic."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses import FakeTensorMode

from fungi.backbones.bfloat16_block import Bfloat16Block
from fungi.backbones.encoders import blocks_before
from fungi.backbones.pooled_token import PooledTokenEncoder
from fungi.backbones.residual_stream import with_bfloat16_residual
from fungi.errors import FungiError
from fungi.gradients.engine import GradientEngine
from fungi.gradients.targets import find_targets
from tests.engine.golden import PreparedViews
from tests.engine.models import contrast
from tests.runtime.traffic import Traffic

CPU = torch.device("cpu")
GRADIENT_SOURCE = "blocks.3.attn.proj"  # in the last of four blocks


def vit(width: int = 24, blocks: int = 4, size: int = 16) -> nn.Module:
    """Return a small Vision Transformer of timm with LayerScale. size: side of the images in pixels."""
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(3)
        options: dict[str, Any] = {"embed_dim": width, "depth": blocks, "num_heads": 3, "init_values": 0.5}
        return VisionTransformer(img_size=size, patch_size=8, num_classes=0, **options).eval().requires_grad_(False)


def engine_of(model: nn.Module, *, dtype: torch.dtype = torch.bfloat16, short_cut: bool = True) -> GradientEngine:
    """Return an engine. short_cut: compute the last block only for the pooled token."""
    return GradientEngine(
        model, find_targets(model, (f"{GRADIENT_SOURCE}:layer",)), device=CPU, dtype=dtype, short_cut=short_cut
    )


def views() -> Tensor:
    """Return random views of five samples, `[5 3 c h w]`."""
    return torch.randn(5, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def gradients(engine: GradientEngine) -> Tensor:
    """Return the gradients of five samples with three views."""
    return engine.extract(views(), PreparedViews(3), {"contrast": contrast}).gradients["contrast"]["layer"]


def dtypes_of_streams(model: nn.Module) -> list[torch.dtype]:
    """Return the dtype of the residual stream after each block."""
    dtypes: list[torch.dtype] = []
    handles = [
        block.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
        for block in model.blocks
    ]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(views()[:, 0])
    for handle in handles:
        handle.remove()
    return dtypes


def test_only_the_stream_before_the_gradient_source_is_bfloat16() -> None:
    model = vit()
    assert dtypes_of_streams(model) == [torch.float32] * 4
    in_bfloat16 = with_bfloat16_residual(model, [GRADIENT_SOURCE])
    # Blocks 0 to 2 are in bfloat16. The output of the last of them is converted to float32.
    assert dtypes_of_streams(in_bfloat16) == [torch.bfloat16] * 2 + [torch.float32] * 2
    two_sources = with_bfloat16_residual(model, ["blocks.1.mlp.fc1", GRADIENT_SOURCE])  # only block 0 is in bfloat16
    assert dtypes_of_streams(two_sources) == [torch.float32] * 4
    assert in_bfloat16.blocks[3] is model.blocks[3]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}, "the backbone has changed"


@pytest.mark.parametrize("short_cut", [True, False])
def test_gradients_keep_the_direction_of_float32(short_cut: bool) -> None:
    model = vit()
    in_float32 = gradients(engine_of(model, dtype=torch.float32, short_cut=short_cut))
    engine = engine_of(with_bfloat16_residual(model, [GRADIENT_SOURCE]), short_cut=short_cut)
    assert isinstance(engine.encoder, PooledTokenEncoder) is short_cut
    in_bfloat16 = gradients(engine)
    assert not torch.equal(in_bfloat16, gradients(engine_of(model, short_cut=short_cut)))
    # The tolerance is that of autocast in bfloat16, whose precision is 8 bits (tests/engine/test_laws.py).
    assert torch.nn.functional.cosine_similarity(in_bfloat16, in_float32).min() > 0.995


def test_the_blocks_before_the_gradient_source_are_copies_with_a_bfloat16_stream() -> None:
    in_bfloat16 = with_bfloat16_residual(vit(), [GRADIENT_SOURCE])
    assert [type(block) for block in blocks_before(in_bfloat16, [GRADIENT_SOURCE])] == [Bfloat16Block] * 3


def test_all_copies_share_a_compiled_program(monkeypatch: pytest.MonkeyPatch) -> None:
    import jaxtyping

    counter = CompileCounter()
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # checks of axes cannot be compiled
    compile_function = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_function(function, backend=counter))
    torch._dynamo.reset()
    engine = engine_of(with_bfloat16_residual(vit(), [GRADIENT_SOURCE]))
    expected = gradients(engine)
    engine.compile()
    torch.testing.assert_close(gradients(engine), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert counter.frame_count == 1


def traffic_of_forward(*, in_bfloat16: bool) -> int:
    """Return the memory traffic of a forward pass in bytes. The model has half the width and image size of ViT-S/16."""
    model = vit(width=192, blocks=12, size=112)
    model = with_bfloat16_residual(model, ["blocks.11.attn.proj"]) if in_bfloat16 else model
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        images = torch.empty(16, 3, 112, 112)
        model(images)  # fills the cache of autocast
        with Traffic() as traffic:
            model(images)
    return traffic.bytes


def test_a_forward_pass_has_less_memory_traffic() -> None:
    # The factor is far from 1, so that a few other operations do not decide.
    assert traffic_of_forward(in_bfloat16=True) < 0.8 * traffic_of_forward(in_bfloat16=False)


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), ["0"], "is for vision transformers of timm, and this is a Sequential"),
        (vit(), ["blocks.0.attn.proj"], r"no block comes before blocks\.0\.attn\.proj"),
    ],
    ids=["another model", "first block"],
)
def test_models_without_blocks_before_the_gradient_source_are_refused(
    model: nn.Module, layers: list[str], message: str
) -> None:
    with pytest.raises(FungiError, match=message):
        with_bfloat16_residual(model, layers)
