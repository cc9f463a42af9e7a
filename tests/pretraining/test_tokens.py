"""Functions that run a transformer step by step give the tokens and the attention of the whole forward pass."""

import pytest
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from fungi.errors import FungiError
from fungi.pretraining.tokens import embed, last_attention, last_blocks, require_known_tokens, run_blocks
from fungi.pretraining.transfer.video_frames import frame_size

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0}
KINDS = {
    "plain": {},
    "registers": {"reg_tokens": 4},
    "no positions of class tokens": {"reg_tokens": 1, "no_embed_class": True},
    "a norm before the blocks": {"pre_norm": True},
    "norms of queries and keys": {"qk_norm": True},
}


def random_model(kind: str) -> VisionTransformer:
    """Return a small network with random parameters, also for norms and biases."""
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES, **KINDS[kind]).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_tokens_equal_those_of_the_model(kind: str) -> None:
    model, images = random_model(kind), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(last_blocks(model, images)[0], model.forward_features(images), rtol=1e-5, atol=1e-5)
    attention_maps = []
    attention = model.blocks[-1].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda _module, _inputs, output: attention_maps.append(output))
    model.forward_features(images)
    torch.testing.assert_close(last_attention(model, images), attention_maps[0], rtol=1e-5, atol=1e-6)


def test_networks_without_a_class_token_or_with_rotary_positions_are_refused() -> None:
    rotary = Eva(**SIZES, use_rot_pos_emb=True)
    without_class = VisionTransformer(**SIZES, class_token=False, global_pool="avg")
    for model in (rotary, without_class, torch.nn.Linear(1, 1)):
        with pytest.raises(FungiError, match="'some-network' is not a vision transformer of timm with a class token"):
            require_known_tokens(model, "some-network")
    require_known_tokens(random_model("registers"), "some-network")


@pytest.mark.parametrize(
    ("size", "expected"), [((854, 480), (832, 480)), ((1080, 1920), (480, 832)), ((500, 480), (448, 480))]
)
def test_the_shorter_side_gets_the_size_and_the_longer_side_is_rounded_down(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert frame_size(size, 480) == expected


# Rows: attention and MLP of block 1, then of block 2. Columns: images. A factor of 0 drops the branch for the image.
FACTORS = {
    "dropped for some images": [[1.25, 0, 1.25, 1.25], [0, 0, 2, 2], [1, 1, 1, 1], [0, 3, 0, 0]],
    "dropped for all images": [[0, 0, 0, 0], [2, 2, 2, 2], [1.5, 0, 0, 1.5], [0, 0, 0, 0]],
}


@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
def test_the_output_of_a_branch_is_multiplied_by_its_factor(factors: list[list[float]]) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0).double()
    images, scales = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor(factors, dtype=torch.float64)
    expected = embed(model, images)
    for block, attention, mlp in zip(model.blocks, scales[::2], scales[1::2], strict=True):
        expected = expected + attention[:, None, None] * block.attn(block.norm1(expected))
        expected = expected + mlp[:, None, None] * block.mlp(block.norm2(expected))
    tokens = run_blocks(model, embed(model, images), scales)
    torch.testing.assert_close(tokens, expected, rtol=1e-12, atol=1e-12)
    weights, output_gradient = list(model.blocks.parameters()), torch.randn_like(tokens)
    gradients, expected_gradients = (
        torch.autograd.grad((output * output_gradient).sum(), weights) for output in (tokens, expected)
    )
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10)


def test_dropped_branches_are_not_computed() -> None:
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    rows: list[int] = []
    for block in model.blocks:
        for branch in (block.attn, block.mlp):
            branch.register_forward_hook(lambda _branch, inputs, _output: rows.append(len(inputs[0])))
    run_blocks(model, embed(model, torch.randn(4, 3, 32, 32)), torch.tensor(FACTORS["dropped for some images"]))
    assert rows == [3, 2, 4, 1]  # number of factors that are not 0


def test_branches_can_be_dropped_in_bfloat16_and_tokens_stay_float32() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    tokens = embed(model.requires_grad_(False), torch.randn(4, 3, 32, 32))
    factors = torch.tensor(FACTORS["dropped for some images"])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run_blocks(model, tokens, factors)
    assert rounded.dtype == torch.float32
    exact = run_blocks(model, tokens, factors)
    assert float(torch.nn.functional.cosine_similarity(rounded, exact, dim=-1).min()) > 0.999
