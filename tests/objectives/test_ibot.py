"""Masks and tokens of iBOT. The loss equals loops, and the gradients equal autograd."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from fungi.backbones.encoders import Encoded, TokenEncoder, mask_vector
from fungi.config import IBOTConfig
from fungi.errors import FungiError
from fungi.objectives.ibot import IBOT
from fungi.objectives.mim import MIM
from fungi.views.image import ImageInput
from fungi.views.masked_crops import MaskedCrops, block_mask
from tests.library.models import build, pictures, wrap

INPUT = ImageInput(size=32, resize=32)


def cross_entropy(student: Tensor, teacher: Tensor) -> float:
    """Return the loss of two latents, with the default temperatures of the teacher and the student."""
    target, log_p = torch.softmax(teacher / 0.07, dim=-1), torch.log_softmax(student / 0.1, dim=-1)
    return -float((target * log_p).sum())


def test_the_loss_equals_its_definition_in_loops() -> None:
    objective = IBOT(latent_dim=6)
    heads = objective.heads(5, seed=0)
    torch.manual_seed(0)
    # Crops 0 and 1 are masked, 2 and 3 local, 4 and 5 not masked. A crop has a class token and 3 patches.
    tokens, mask = torch.randn(2, 6, 4, 5), torch.zeros(2, 6, 4, dtype=torch.bool)
    mask[0, 0, 1], mask[0, 0, 3], mask[0, 1, 2], mask[1, 1, 1] = True, True, True, True
    encoded = Encoded(tokens[:, :, 0], tokens[:, :, 1:], mask[:, :, 1:])
    actual = objective.loss(encoded, heads, {})
    patches_only = MIM(latent_dim=6).loss(encoded, heads, {})
    for sample in range(2):
        student = heads["student"](normalize(tokens[sample], dim=-1))
        teacher = heads["teacher"](normalize(tokens[sample], dim=-1))
        class_losses = [
            cross_entropy(student[crop, 0], teacher[4 + global_crop, 0])
            for global_crop in range(2)
            for crop in range(4)
            if crop != global_crop
        ]
        crop_losses = []
        for crop in range(2):
            masked_patches = [patch for patch in range(1, 4) if mask[sample, crop, patch]]
            losses = [cross_entropy(student[crop, patch], teacher[4 + crop, patch]) for patch in masked_patches]
            crop_losses.append(sum(losses) / len(losses) if losses else 0.0)
        patch_loss = sum(crop_losses) / 2
        assert float(patches_only[sample]) == pytest.approx(patch_loss, rel=1e-5)
        assert float(actual[sample]) == pytest.approx(patch_loss + sum(class_losses) / 6, rel=1e-5)
        assert len(class_losses) == 6


@pytest.mark.parametrize(("height", "width"), [(14, 14), (16, 16), (8, 8), (4, 4)])
def test_masks_have_at_most_the_requested_share_of_patches_and_almost_reach_this_share(height: int, width: int) -> None:
    torch.manual_seed(1)
    counts = [int(block_mask(height, width, ratio=0.3).sum()) for _ in range(50)]
    assert max(counts) <= math.ceil(0.3 * height * width)
    assert sum(counts) / 50 > 0.27 * height * width  # the rest can be too small for another block


def test_the_aspect_ratio_of_a_block_is_limited() -> None:
    """The ratio of the sides of a block is 0.3 to 1/0.3, up to rounding to whole patches."""
    torch.manual_seed(2)
    for _ in range(50):
        mask = block_mask(height=14, width=14, ratio=16 / 196)  # 16 patches: a single block of the smallest size
        if mask.any():
            rows, columns = int(mask.any(dim=1).sum()), int(mask.any(dim=0).sum())
            assert 0.2 <= rows / columns <= 5
            assert int(mask.sum()) == rows * columns <= 16


def test_a_share_of_zero_masks_nothing_and_random_shares_can_be_zero() -> None:
    assert not block_mask(height=14, width=14, ratio=0.0).any()
    torch.manual_seed(0)
    views = MaskedCrops(input=INPUT, patch_size=8, random_ratio=True)
    empty = [not views.prepare(image)["mask"].any() for image in pictures(12)]
    assert 0 < sum(empty) < 12


def test_views_are_the_crops_of_dino_and_a_copy_of_the_global_crops() -> None:
    views, image = MaskedCrops(input=INPUT, patch_size=8), pictures(1)[0]
    torch.manual_seed(4)
    actual = views.render(views.collate([views.prepare(image)]))
    torch.manual_seed(4)
    plain = INPUT.views("crops")
    expected = plain.render(plain.collate([plain.prepare(image)]))
    assert views.n_views == 14
    assert torch.equal(actual["images"][:12], expected)
    assert torch.equal(actual["images"][12:], expected[:2])
    assert actual["mask"].shape == (14, 16)
    assert actual["mask"][:2].any(dim=1).all()
    assert not actual["mask"][2:].any()


def test_tokens_equal_those_of_the_model_and_do_not_depend_on_masked_patches() -> None:
    model = build("timm").eval()
    images, mask = torch.randn(2, 3, 32, 32), torch.zeros(2, 16, dtype=torch.bool)
    mask[1, 3] = True
    with torch.no_grad():
        actual = TokenEncoder(model)({"images": images, "mask": mask})
        torch.testing.assert_close(actual.tokens[:1], model.forward_features(images[:1]))
        torch.testing.assert_close(TokenEncoder(model)(images).tokens, model.forward_features(images))
        changed = images.clone()
        changed[1, :, :8, 24:] = 5.0  # the fourth patch
        tokens_of_changed = TokenEncoder(model)({"images": changed, "mask": mask}).tokens
    torch.testing.assert_close(tokens_of_changed, actual.tokens)
    assert actual.mask is mask
    assert not model.patch_embed._forward_hooks


def test_a_small_random_vector_replaces_masked_patches_if_there_is_a_seed() -> None:
    model = build("timm").eval()
    images, mask = torch.randn(2, 3, 32, 32), torch.ones(2, 16, dtype=torch.bool)
    vector = mask_vector(width=24, seed=7, device=torch.device("cpu"))
    with torch.no_grad():
        without_seed, first, second, other_seed = (
            TokenEncoder(model)({"images": images, "mask": mask, "mask_seed": seed}).tokens for seed in (-1, 7, 7, 8)
        )
        patches = vector.expand(2, 16, -1)
        expected = model.norm(model.blocks(model.norm_pre(model.patch_drop(model._pos_embed(patches)))))
    torch.testing.assert_close(first, expected)
    assert torch.equal(first, second)
    assert not torch.allclose(first, without_seed)
    assert not torch.allclose(first, other_seed)
    assert 0.01 < float(mask_vector(width=4096, seed=7, device=torch.device("cpu")).std()) < 0.03
    views = MaskedCrops(input=ImageInput(size=32, resize=36), patch_size=8, mask_seed=7)
    assert views.render(views.collate([views.prepare(pictures(1)[0])]))["mask_seed"] == 7


@pytest.mark.parametrize("layer", ["blocks.1.attn.proj", "blocks.0.mlp.fc1"])
def test_gradients_equal_autograd(layer: str) -> None:
    model = build("timm").eval()
    wrapper = wrap(configs=[IBOTConfig(latent_dim=16, patch_size=8)], model=model, layer=layer)
    extractor, image = wrapper.extractors[0], pictures(1)[0]
    engine = extractor.engine
    engine.projectors = {}
    batch = extractor.views.collate([extractor.views.prepare(image)])
    actual = engine.extract(batch, extractor.views, {"ibot": extractor.loss})
    (gradient,) = actual.gradients["ibot"].values()
    module = model.get_submodule(layer)
    encoded = TokenEncoder(model)(extractor.views.render(batch)).by_sample(1)
    loss = extractor.objective.loss(encoded, extractor.heads(), {}).sum()
    weight, bias = torch.autograd.grad(loss, [module.weight, module.bias])
    expected = torch.cat([weight, bias[:, None]], dim=1).flatten()
    assert cosine_similarity(gradient[0], expected, dim=0) > 1 - 1e-5
    assert float(gradient.norm() / expected.norm()) == pytest.approx(1, rel=1e-4)


def test_features_do_not_depend_on_the_batch() -> None:
    wrapper = wrap(configs=[IBOTConfig(latent_dim=16, patch_size=8)])
    wrapper.setup([(image, 0) for image in pictures(2)], check_independence=True)
    images = pictures(3)
    alone = torch.cat([wrapper([image]) for image in images])
    assert (wrapper(images) - alone).abs().max() < 1e-4


def test_models_and_sizes_that_cannot_be_masked_are_refused() -> None:
    with pytest.raises(FungiError, match="a Convolutions has no patch tokens"):
        wrap("convolutions", [IBOTConfig(patch_size=8)])
    with pytest.raises(
        FungiError, match=r"the mask has 4 patches, but the model has 16\. Set patch_size of the objective"
    ):
        wrap(configs=[IBOTConfig(patch_size=16)])(pictures(1))
    with pytest.raises(FungiError, match="patch_size 7 does not divide the input size 32"):
        MaskedCrops(input=INPUT, patch_size=7)
    with pytest.raises(FungiError, match="local_crops has to be at least 1"):
        MaskedCrops(input=INPUT, patch_size=8, local_crops=0)


def test_the_random_ratio_is_drawn_once_per_image() -> None:
    views = MaskedCrops(input=INPUT, patch_size=8, random_ratio=True)
    has_mask = [views.prepare(picture)["mask"].any(dim=1).tolist() for picture in pictures(40)]
    assert {tuple(crops) for crops in has_mask} == {(True, True), (False, False)}


@pytest.mark.parametrize(("height", "width"), [(3, 40), (40, 3), (1, 60), (2, 2)])
def test_blocks_stay_inside_grids_of_any_shape(height: int, width: int) -> None:
    torch.manual_seed(3)
    counts = [int(block_mask(height, width, ratio=0.5).sum()) for _ in range(50)]
    assert 0 < max(counts) <= math.ceil(0.5 * height * width)


def test_random_ratios_are_zero_or_between_0_1_and_0_5() -> None:
    torch.manual_seed(4)
    ratios = [MaskedCrops(input=INPUT, patch_size=8, random_ratio=True)._draw_ratio() for _ in range(400)]
    nonzero = [ratio for ratio in ratios if ratio]
    assert 150 < len(nonzero) < 250
    assert 0.1 <= min(nonzero) < 0.12
    assert 0.48 < max(nonzero) <= 0.5
