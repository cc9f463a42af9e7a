"""The feature pyramid of dense heads: maps of tokens, strides, and groups of parameters (spec udi 7.6)."""

from typing import Any

import numpy as np
import pytest
import torch

from fungi.backbones.loading import load_backbone
from fungi.data.sets.digit_scenes import compose
from fungi.pretraining.dense.pyramid import PatchMaps, TransformerPyramid, decay_groups
from fungi.pretraining.dense.settings import DetectSettings
from fungi.pretraining.tokens import embed
from fungi.views.pixels import normalize


@pytest.mark.parametrize("name", ["digits-vit", "udi-micro"])
def test_maps_have_the_patch_tokens_of_each_block_at_their_positions(name: str) -> None:
    """The expected tokens come from a loop over the blocks. The maps leave out the class tokens."""
    backbone = load_backbone(name, random_init=True)
    model: Any = backbone.model
    patch = int(model.patch_embed.patch_size[0])
    images = torch.randn(2, 3, 8 * patch, 6 * patch)
    tokens, expected = embed(model, images)[:, model.num_prefix_tokens :], []
    for block in model.blocks:
        tokens = block(tokens)
        expected.append(tokens)
    blocks = (0, 1, len(model.blocks) - 1)
    maps = PatchMaps(model, blocks).eval()(images)
    for block, level in zip(blocks, maps, strict=True):
        assert level.shape == (2, model.embed_dim, 8, 6)
        for row, column in ((0, 0), (3, 5), (7, 2)):
            torch.testing.assert_close(level[:, :, row, column], expected[block][:, 6 * row + column])


def test_a_repeated_block_gives_the_same_map_again() -> None:
    backbone = load_backbone("udi-micro", random_init=True)
    maps = PatchMaps(backbone.model, (0, 1, 2, 2)).eval()(torch.randn(1, 3, 16, 16))
    assert len(maps) == 4
    assert torch.equal(maps[2], maps[3])
    assert not torch.equal(maps[1], maps[2])


def accuracy_of_patches(seed: int, *, random_init: bool) -> float:
    """Return the accuracy of a linear classifier of the digits 0 to 4 from the maps of single patches of ink."""
    from sklearn.linear_model import RidgeClassifier

    backbone = load_backbone("digits-vit", random_init=random_init, seed=seed)
    maps, patches = PatchMaps(backbone.model, (0, 1, 2, 3)).eval(), []
    for split in ("train", "test"):
        scenes = [compose(split, number) for number in range(120 * seed, 120 * seed + 120)]
        scenes = [(grey, mask) for grey, mask in scenes if mask.max() <= 5]
        pixels = torch.from_numpy(np.stack([grey for grey, _ in scenes]))[:, None].expand(-1, 3, -1, -1)
        with torch.no_grad():
            levels = torch.cat(maps(normalize(pixels.float() / 255, backbone.input.statistics)), dim=1)
        cells = np.stack([mask for _, mask in scenes]).reshape(-1, 12, 4, 12, 4)  # patches of 4 x 4 pixels
        ink = (cells > 0).mean(axis=(2, 4)) >= 0.4
        patches.append((levels.permute(0, 2, 3, 1)[torch.from_numpy(ink)].numpy(), cells.max(axis=(2, 4))[ink]))
    (train, labels), (test, expected) = patches
    deviation = train.std(axis=0)
    classifier = RidgeClassifier(alpha=1.0, class_weight="balanced").fit(train / deviation, labels)
    return classifier.score(test / deviation, expected)


@pytest.mark.slow
def test_maps_of_the_pretrained_network_hold_the_class_of_a_digit() -> None:
    """Compare with random weights. Measured with three seeds: 0.69 (deviation 0.006) and 0.37 (deviation 0.014)."""
    pretrained, random = ([accuracy_of_patches(seed, random_init=kind) for seed in range(3)] for kind in (False, True))
    assert min(pretrained) > max(random) + 0.15


def test_the_pyramid_has_the_published_strides_and_a_gradient_for_every_trained_parameter() -> None:
    backbone = load_backbone("udi-vitt16", random_init=True)
    pyramid = TransformerPyramid(backbone, DetectSettings(backbone="udi-vitt16", channels=8), extra=True)
    images = torch.randn(2, 3, 96, 64)
    maps = pyramid(images)
    assert pyramid.strides == [4, 8, 16, 32, 64]
    for level, stride in zip(maps.values(), pyramid.strides, strict=True):
        assert level.shape == (2, 8, -(-96 // stride), 64 // stride)
    sum(level.square().sum() for level in maps.values()).backward()
    assert [name for name, value in pyramid.named_parameters() if value.requires_grad and value.grad is None] == []


def test_positions_and_normalisation_have_no_weight_decay() -> None:
    settings = DetectSettings(backbone="digits-vit", blocks=(0, 1, 2, 3), channels=8)
    pyramid = TransformerPyramid(load_backbone("digits-vit"), settings, extra=False)
    without_decay = {
        id(value) for group in decay_groups(pyramid, 0.05) if not group["weight_decay"] for value in group["params"]
    }
    names = {name for name, value in pyramid.named_parameters() if id(value) in without_decay}
    assert {"maps.model.pos_embed", "maps.model.blocks.0.norm1.weight", "rescale.0.1.bias"} <= names
    assert not names & {"maps.model.blocks.0.attn.qkv.weight", "maps.model.blocks.0.attn.qkv.bias", "rescale.1.weight"}
