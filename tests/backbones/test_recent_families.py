"""Checkpoints of recent families give the same embeddings as the code of their publisher."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fungi.backbones.base import BACKBONES
from fungi.backbones.families.dino import dinov2_names
from fungi.backbones.families.dinov3 import dinov3_names
from fungi.backbones.families.siglip2 import siglip_names
from fungi.backbones.loading import load_backbone
from tests.backbones.small import DEPTH, GRID, PATCH, SIZE, WIDTH, random_state, relative_error, shrink, vit_shapes
from tests.backbones.small import timm_vit as small_vit
from tests.backbones.test_families import ROUNDING, attention, linear, norm


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


def hub_embeddings_with_registers(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Return the embeddings of the hub code of DINOv2 giant with registers: class tokens after the norm, `[n d]`."""
    x = functional.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    side = int((state["pos_embed"].shape[1] - 1) ** 0.5)
    positions = state["pos_embed"][:, 1:].reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)
    positions = functional.interpolate(positions, mode="bicubic", antialias=True, size=(GRID, GRID))
    patches = x.flatten(2).transpose(1, 2) + positions.permute(0, 2, 3, 1).reshape(1, -1, WIDTH)
    other_tokens = [state["cls_token"] + state["pos_embed"][:, :1], state["register_tokens"]]
    x = torch.cat([*(token.expand(len(x), -1, -1) for token in other_tokens), patches], dim=1)
    for index in range(DEPTH):
        block = {key.removeprefix(f"blocks.{index}."): value for key, value in state.items()}
        x = x + block["ls1.gamma"] * attention(block, norm(block, "norm1", x))
        gate, value = linear(block, "mlp.w12", norm(block, "norm2", x)).chunk(2, dim=-1)
        x = x + block["ls2.gamma"] * linear(block, "mlp.w3", functional.silu(gate) * value)
    return norm(state, "norm", x)[:, 0]


def dinov2_giant_state() -> dict[str, Tensor]:
    """Return a checkpoint like `dinov2_vitg14_reg4_pretrain.pth`, with registers, a gated MLP and 9 x 9 positions."""
    shapes = vit_shapes(grid=9, layer_scale=True) | {"mask_token": (1, WIDTH), "register_tokens": (1, 4, WIDTH)}
    for index in range(DEPTH):
        mlp = f"blocks.{index}.mlp"
        for layer in ("fc1", "fc2"):
            del shapes[f"{mlp}.{layer}.weight"], shapes[f"{mlp}.{layer}.bias"]
        shapes |= {f"{mlp}.w12.weight": (4 * WIDTH, WIDTH), f"{mlp}.w12.bias": (4 * WIDTH,)}
        shapes |= {f"{mlp}.w3.weight": (WIDTH, 2 * WIDTH), f"{mlp}.w3.bias": (WIDTH,)}
    return random_state(shapes)


def test_dinov2_giant_with_registers_gives_the_embedding_of_the_hub_code(images, tmp_path, monkeypatch) -> None:
    from timm.layers import SwiGLUPacked

    assert BACKBONES["dinov2_vitg14_reg"].convert is dinov2_names
    gated = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 4.0, "init_values": 1.0}
    build = partial(small_vit, **gated, reg_tokens=4, no_embed_class=True)
    shrink(monkeypatch, "dinov2_vitg14_reg", build, convert=partial(dinov2_names, grid=GRID))
    state = dinov2_giant_state()
    torch.save(state, tmp_path / "dinov2.pth")
    backbone = load_backbone("dinov2_vitg14_reg", checkpoint=tmp_path / "dinov2.pth")
    assert relative_error(backbone.model(images), hub_embeddings_with_registers(state, images)) < ROUNDING


def small_dinov3() -> nn.Module:
    """Return a small DINOv3 network of timm, with a gated MLP."""
    import timm

    sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2}
    return timm.create_model("vit_small_plus_patch16_dinov3_qkvb", num_classes=0, global_pool="token", **sizes)


def published_dinov3() -> dict[str, Tensor]:
    """Return tensors in the published names, copied from `dinov3_vits16plus_pretrain_lvd1689m.pth`."""
    shapes = {name: shape for name, shape in vit_shapes(layer_scale=True).items() if name != "pos_embed"}
    shapes |= {"mask_token": (1, WIDTH), "storage_tokens": (1, 4, WIDTH), "rope_embed.periods": (WIDTH // 8,)}
    for index in range(DEPTH):
        block = f"blocks.{index}"
        for layer in ("fc1", "fc2"):
            del shapes[f"{block}.mlp.{layer}.weight"], shapes[f"{block}.mlp.{layer}.bias"]
        shapes |= {f"{block}.mlp.{layer}.weight": (4 * WIDTH, WIDTH) for layer in ("w1", "w2")}
        shapes |= {f"{block}.mlp.{layer}.bias": (4 * WIDTH,) for layer in ("w1", "w2")}
        shapes |= {f"{block}.mlp.w3.weight": (WIDTH, 4 * WIDTH), f"{block}.mlp.w3.bias": (WIDTH,)}
        shapes[f"{block}.attn.qkv.bias_mask"] = (3 * WIDTH,)
    return random_state(shapes)


def test_published_dinov3_names_are_converted_as_in_timm(images, tmp_path, monkeypatch, capsys) -> None:
    from timm.models.eva import checkpoint_filter_fn

    assert BACKBONES["dinov3_vits16plus"].convert is dinov3_names
    shrink(monkeypatch, "dinov3_vits16plus", small_dinov3)
    state = published_dinov3()
    torch.save(state, tmp_path / "dinov3.pth")
    backbone = load_backbone("dinov3_vits16plus", checkpoint=tmp_path / "dinov3.pth")
    converted = small_dinov3().eval()
    converted.load_state_dict(checkpoint_filter_fn(dict(state), converted))
    with torch.no_grad():
        assert torch.equal(backbone.model(images), converted(images))
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_published_siglip2_names_give_the_embedding_of_transformers(images, tmp_path, monkeypatch) -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = SiglipVisionModel(config).eval()
        for parameter in original.parameters():
            nn.init.normal_(parameter, std=0.2)
    build = partial(small_vit, class_token=False, global_pool="map", act_layer="gelu_tanh")
    shrink(monkeypatch, "siglip2-base-patch16-224", build, convert=partial(siglip_names, build=build))
    state = {
        f"vision_model.{name.removeprefix('vision_model.')}": tensor for name, tensor in original.state_dict().items()
    }
    torch.save(state | {"logit_scale": torch.zeros(1), "text_model.head.bias": torch.zeros(3)}, tmp_path / "siglip.pt")
    backbone = load_backbone("siglip2-base-patch16-224", checkpoint=tmp_path / "siglip.pt")
    with torch.no_grad():
        assert relative_error(backbone.model(images), original(images).pooler_output) < ROUNDING


def test_siglip_views_are_not_cropped() -> None:
    from PIL import Image

    wide = Image.new("RGB", (400, 100))
    wide.paste((255, 0, 0), (0, 0, 100, 100))
    (complete,) = BACKBONES["siglip2-base-patch16-224"].input.views("plain").prepare(wide)
    (cropped,) = BACKBONES["dinov3_vits16"].input.views("plain").prepare(wide)
    assert complete.shape == (3, 224, 224)
    assert int(complete[0, 100, 10]) == 255  # the red left edge is in the view
    assert int(cropped.max()) == 0
