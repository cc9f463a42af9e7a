"""Running a transformer token by token gives what it gives itself."""

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


def model_of(kind: str) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES, **KINDS[kind]).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_tokens_equal_those_of_the_model(kind: str) -> None:
    model, images = model_of(kind), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(last_blocks(model, images)[0], model.forward_features(images), rtol=1e-5, atol=1e-5)
    kept = []
    attention = model.blocks[-1].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    model.forward_features(images)
    torch.testing.assert_close(last_attention(model, images), kept[0], rtol=1e-5, atol=1e-6)


def test_networks_with_other_tokens_are_refused() -> None:
    rotary = Eva(**SIZES, use_rot_pos_emb=True)
    without_class = VisionTransformer(**SIZES, class_token=False, global_pool="avg")
    for model in (rotary, without_class, torch.nn.Linear(1, 1)):
        with pytest.raises(FungiError, match="'some-network' is not a vision transformer of timm with a class token"):
            require_known_tokens(model, "some-network")
    require_known_tokens(model_of("registers"), "one")


@pytest.mark.parametrize(
    ("size", "expected"), [((854, 480), (832, 480)), ((1080, 1920), (480, 832)), ((500, 480), (448, 480))]
)
def test_frames_keep_the_shorter_side_and_floor_the_other(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert frame_size(size, 480) == expected


FACTORS = {
    "some": [[1.25, 0, 1.25, 1.25], [0, 0, 2, 2], [1, 1, 1, 1], [0, 3, 0, 0]],
    "all of a branch": [[0, 0, 0, 0], [2, 2, 2, 2], [1.5, 0, 0, 1.5], [0, 0, 0, 0]],
}


@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
def test_a_branch_counts_by_its_factor_whether_it_is_computed_or_dropped(factors: list[list[float]]) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0).double()
    images, kept = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor(factors, dtype=torch.float64)
    tokens = embed(model, images)
    for block, attention, mlp in zip(model.blocks, kept[::2], kept[1::2], strict=True):  # every branch, by its factor
        tokens = tokens + attention[:, None, None] * block.attn(block.norm1(tokens))
        tokens = tokens + mlp[:, None, None] * block.mlp(block.norm2(tokens))
    found = run_blocks(model, embed(model, images), kept)
    weights, asked = list(model.blocks.parameters()), torch.randn_like(found)
    torch.testing.assert_close(found, tokens, rtol=1e-12, atol=1e-12)
    for one, other in zip(*(torch.autograd.grad((out * asked).sum(), weights) for out in (found, tokens)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_branches_that_are_dropped_are_not_computed() -> None:
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    rows: list[int] = []
    for block in model.blocks:
        for branch in (block.attn, block.mlp):
            branch.register_forward_hook(lambda _branch, given, _found: rows.append(len(given[0])))
    run_blocks(model, embed(model, torch.randn(4, 3, 32, 32)), torch.tensor(FACTORS["some"]))
    assert rows == [3, 2, 4, 1]


def test_dropping_branches_works_in_bfloat16_and_tokens_stay_float32() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    tokens, kept = embed(model.requires_grad_(False), torch.randn(4, 3, 32, 32)), torch.tensor(FACTORS["some"])
    with torch.autocast("cpu", torch.bfloat16):
        found = run_blocks(model, tokens, kept)
    assert found.dtype == torch.float32
    exact = run_blocks(model, tokens, kept)
    assert float(torch.nn.functional.cosine_similarity(found, exact, dim=-1).min()) > 0.999
