"""Position embeddings are scaled as in the code of the publisher of the weights."""

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from fungi.backbones.base import BACKBONES
from fungi.backbones.position_embedding import at_size, hub_positions, scaling_of


def build_on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return BACKBONES[name].build()


@pytest.mark.parametrize(
    ("name", "scaling"),
    [
        ("dino_vits16", "hub"),
        ("dinov2_vits14", "hub"),
        ("dinov2_vits14_reg", "hub, antialiased"),
        ("udi-micro", "hub"),
        ("digits-vit", "timm"),
        ("vit-s16", "timm"),
        ("efficientnet-lite0", "none"),
    ],
)
def test_the_scaling_of_positions_is_that_of_the_publisher(name: str, scaling: str) -> None:
    assert scaling_of(build_on_meta(name)) == scaling


def tiny_vit(**options: object) -> nn.Module:
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=12, depth=1, num_heads=2, num_classes=0, **options
    )
    nn.init.normal_(model.pos_embed)
    return model.eval()


def test_models_of_timm_and_of_the_hub_are_scaled_differently() -> None:
    model = tiny_vit()
    scaled = at_size(model, 16)
    torch.testing.assert_close(scaled.pos_embed, resample_abs_pos_embed(model.pos_embed, new_size=[2, 2]))
    model.pretrained_cfg = {"url": "https://dl.fbaipublicfiles.com/dino/some/weights.pth"}  # weights of the hub
    scaled_as_in_hub = at_size(model, 16)
    torch.testing.assert_close(scaled_as_in_hub.pos_embed.data, hub_positions(model.pos_embed.data, grid=2))
    assert not torch.allclose(scaled_as_in_hub.pos_embed, scaled.pos_embed)


def test_models_of_torchvision_are_scaled_as_in_torchvision() -> None:
    from torchvision.models import VisionTransformer
    from torchvision.models.vision_transformer import interpolate_embeddings

    torch.manual_seed(0)
    model = VisionTransformer(image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=12, mlp_dim=16).eval()
    state = interpolate_embeddings(image_size=16, patch_size=8, model_state=model.state_dict())
    resized = VisionTransformer(
        image_size=16, patch_size=8, num_layers=1, num_heads=2, hidden_dim=12, mlp_dim=16
    ).eval()
    resized.load_state_dict(state)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(at_size(model, 16)(images), resized(images))
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 1000)


def test_a_model_inside_another_module_is_scaled_and_its_hooks_are_called() -> None:
    outer = nn.Sequential(tiny_vit(), nn.Linear(12, 5)).eval()
    token_counts: list[int] = []
    outer[0].blocks[0].register_forward_hook(lambda module, inputs, output: token_counts.append(output.shape[1]))
    assert at_size(outer, 16)(torch.zeros(1, 3, 16, 16)).shape == (1, 5)
    assert outer(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert token_counts == [1 + 2 * 2, 1 + 4 * 4]  # the class token and the patches


def test_rotary_positions_are_computed_for_the_new_grid() -> None:
    from timm.models.eva import Eva

    torch.manual_seed(0)
    options = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0}
    rotary = {"use_abs_pos_emb": False, "use_rot_pos_emb": True}
    model, small = (Eva(img_size=size, **options, **rotary).eval() for size in (32, 16))
    small.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 16, 16)
    outputs = model(torch.ones(1, 3, 32, 32))
    torch.testing.assert_close(at_size(model, 16)(images), small(images))
    assert torch.equal(model(torch.ones(1, 3, 32, 32)), outputs)
