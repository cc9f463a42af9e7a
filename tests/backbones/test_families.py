"""Checkpoints with their published key names give the same embeddings as the code of their publisher."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fungi.backbones.base import BACKBONES
from fungi.backbones.families.dino import dinov2_names
from fungi.backbones.families.torchvision_vit import timm_layout
from fungi.backbones.loading import load_backbone
from fungi.backbones.position_embedding import hub_positions
from fungi.errors import FungiError
from tests.backbones.small import (
    DEPTH,
    GRID,
    HEADS,
    PATCH,
    SIZE,
    WIDTH,
    openai_clip_shapes,
    random_state,
    relative_error,
    shrink,
    shrink_timm,
    timm_vit,
    torchvision_shapes,
    vit_shapes,
)

ROUNDING = 1e-5  # float32 sums in another order


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


def hub_embeddings(state: dict[str, Tensor], images: Tensor, *, positions: Tensor) -> Tensor:
    """Return the embeddings of the hub code of DINO and DINOv2: the class tokens after the final norm, `[n d]`."""
    x = functional.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1) + positions
    for index in range(DEPTH):
        block = {key.removeprefix(f"blocks.{index}."): value for key, value in state.items()}
        x = x + block.get("ls1.gamma", 1) * attention(block, norm(block, "norm1", x))
        hidden = functional.gelu(linear(block, "mlp.fc1", norm(block, "norm2", x)))
        x = x + block.get("ls2.gamma", 1) * linear(block, "mlp.fc2", hidden)
    return norm(state, "norm", x)[:, 0]


def attention(block: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the output of self-attention, `[n t d]`, with the parameters of a block."""
    qkv = linear(block, "attn.qkv", x).unflatten(-1, (3, HEADS, WIDTH // HEADS))  # [n t 3 heads width/heads]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [n heads t width/heads] each
    weights = (q @ k.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5).softmax(-1)  # [n heads t t]
    return linear(block, "attn.proj", (weights @ v).transpose(1, 2).flatten(2))


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Return the output of a linear layer. name: its name in the state dict."""
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Return the output of a layer norm. name: its name in the state dict."""
    return functional.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)


def positions_in_hub_code(positions: Tensor, *, grid: int) -> Tensor:
    """Return positions for `grid` x `grid` patches, computed as in `interpolate_pos_encoding` of DINOv2's hub code.

    Source: https://github.com/facebookresearch/dinov2/blob/main/dinov2/models/vision_transformer.py
    """
    side, width = int((positions.shape[1] - 1) ** 0.5), positions.shape[-1]
    interpolated = functional.interpolate(
        positions[:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2),
        mode="bicubic",
        antialias=False,
        scale_factor=((grid + 0.1) / side, (grid + 0.1) / side),
    )
    return torch.cat([positions[:, :1], interpolated.permute(0, 2, 3, 1).reshape(1, -1, width)], dim=1)


def test_torchvision_weights_give_the_embedding_of_torchvision(images):
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    original = VisionTransformer(
        image_size=SIZE, patch_size=PATCH, num_layers=DEPTH, num_heads=HEADS, hidden_dim=WIDTH, mlp_dim=4 * WIDTH
    ).eval()
    for parameter in original.parameters():
        nn.init.normal_(parameter, std=0.2)
    state = original.state_dict()
    original.heads = nn.Identity()
    converted = timm_vit().eval()
    converted.load_state_dict(timm_layout(dict(state)))
    with torch.no_grad():
        assert relative_error(converted(images), original(images)) < ROUNDING


def test_torchvision_files_with_old_names_give_the_embedding_of_torchvision(images, tmp_path, monkeypatch):
    from torchvision.models import VisionTransformer

    shrink(monkeypatch, "vit-b16")
    state = random_state(torchvision_shapes())
    torch.save(state, tmp_path / "vit_b_16.pth")
    original = VisionTransformer(
        image_size=SIZE,
        patch_size=PATCH,
        num_layers=DEPTH,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        mlp_dim=4 * WIDTH,
        num_classes=10,
    ).eval()
    original.load_state_dict(state)  # torchvision renames linear_1 and linear_2
    original.heads = nn.Identity()
    backbone = load_backbone("vit-b16", checkpoint=tmp_path / "vit_b_16.pth")
    with torch.no_grad():
        assert relative_error(backbone.model(images), original(images)) < ROUNDING


def test_a_dino_checkpoint_gives_the_embedding_of_the_hub_code(images, tmp_path, monkeypatch):
    shrink(monkeypatch, "dino_vitb16")
    state = random_state(vit_shapes())
    torch.save(state, tmp_path / "dino_vitbase16_pretrain.pth")
    backbone = load_backbone("dino_vitb16", checkpoint=tmp_path / "dino_vitbase16_pretrain.pth")
    expected = hub_embeddings(state, images, positions=state["pos_embed"])
    assert relative_error(backbone.model(images), expected) < ROUNDING


def test_a_dinov2_checkpoint_gives_the_embedding_of_the_hub_code(images, tmp_path, monkeypatch):
    """Load a checkpoint with a mask token, LayerScale, and positions of a 9 x 9 grid, which are interpolated."""
    assert BACKBONES["dinov2_vitb14"].convert is dinov2_names
    shrink(
        monkeypatch,
        "dinov2_vitb14",
        partial(timm_vit, init_values=1.0),
        convert=partial(dinov2_names, grid=GRID),
    )
    state = random_state({**vit_shapes(grid=9, layer_scale=True), "mask_token": (1, WIDTH)})
    torch.save(state, tmp_path / "dinov2_vitb14_pretrain.pth")
    backbone = load_backbone("dinov2_vitb14", checkpoint=tmp_path / "dinov2_vitb14_pretrain.pth")
    expected = hub_embeddings(state, images, positions=positions_in_hub_code(state["pos_embed"], grid=GRID))
    assert relative_error(backbone.model(images), expected) < ROUNDING


def test_dinov2_positions_at_224_pixels_equal_those_of_the_hub_code_and_not_those_of_timm():
    from timm.layers import resample_abs_pos_embed

    published = torch.randn(1, 1 + 37**2, 8, generator=torch.Generator().manual_seed(0))
    positions = dinov2_names({"pos_embed": published})["pos_embed"]
    assert positions.shape == (1, 1 + 16**2, 8)
    assert torch.equal(positions, positions_in_hub_code(published, grid=16))
    positions_of_timm = resample_abs_pos_embed(published, new_size=[16, 16])
    assert relative_error(positions, positions_of_timm) > 0.1  # much more than rounding


def test_positions_of_the_same_grid_are_unchanged():
    positions = torch.randn(1, 1 + GRID**2, 8)
    assert hub_positions(positions, grid=GRID) is positions


def mocov3_checkpoint() -> dict[str, object]:
    """Return a training checkpoint of MoCo v3: two encoders with heads, the predictor and the optimizer."""
    state = random_state(vit_shapes("module.base_encoder."))
    state |= random_state(vit_shapes("module.momentum_encoder."), seed=1)
    for encoder in ("base_encoder", "momentum_encoder"):
        state |= random_state(
            {f"module.{encoder}.head.0.weight": (8, WIDTH), f"module.{encoder}.head.3.weight": (4, 8)}
        )
        state[f"module.{encoder}.head.1.num_batches_tracked"] = torch.tensor(3)
    state |= random_state({"module.predictor.0.weight": (8, 4), "module.predictor.3.weight": (4, 8)})
    return {
        "epoch": 300,
        "arch": "vit_base",
        "state_dict": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }


def test_a_training_checkpoint_of_mocov3_gives_its_base_encoder(images, tmp_path, monkeypatch):
    shrink(monkeypatch, "vit-b16-mocov3")
    torch.save(mocov3_checkpoint(), tmp_path / "vit-b-300ep.pth.tar")
    backbone = load_backbone("vit-b16-mocov3", checkpoint=tmp_path / "vit-b-300ep.pth.tar")
    state = random_state(vit_shapes())  # the tensors of the base encoder: the same shapes and the same seed
    expected = hub_embeddings(state, images, positions=state["pos_embed"])
    assert relative_error(backbone.model(images), expected) < ROUNDING


def small_resnet() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    model = ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=4)
    model.fc = nn.Identity()
    return model


def mocov2_checkpoint() -> dict[str, object]:
    """Return a training checkpoint of MoCo v2: query and key encoder with heads, and the queue."""
    torch.manual_seed(1)
    encoders = {"encoder_q": small_resnet().state_dict(), "encoder_k": small_resnet().state_dict()}
    state = {f"module.{name}.{key}": value for name, encoder in encoders.items() for key, value in encoder.items()}
    for name in encoders:
        state |= random_state({f"module.{name}.fc.0.weight": (8, 2048), f"module.{name}.fc.2.bias": (4,)})
    state |= {"module.queue": torch.randn(4, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": state}


def test_a_training_checkpoint_of_mocov2_gives_its_query_encoder(images, tmp_path, monkeypatch):
    shrink(monkeypatch, "mocov2-resnet50", small_resnet)
    checkpoint = mocov2_checkpoint()
    torch.save(checkpoint, tmp_path / "moco_v2_800ep_pretrain.pth.tar")
    backbone = load_backbone("mocov2-resnet50", checkpoint=tmp_path / "moco_v2_800ep_pretrain.pth.tar")
    expected_model = small_resnet().eval()
    prefix = "module.encoder_q."
    query_encoder = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix) and not name.startswith(f"{prefix}fc.")
    }
    expected_model.load_state_dict(query_encoder)
    with torch.no_grad():
        assert torch.equal(backbone.model(images), expected_model(images))
    assert backbone.model(images).shape == (3, 2048)


def test_batch_norm_does_not_depend_on_the_batch_and_keeps_its_statistics(images, monkeypatch):
    shrink(monkeypatch, "mocov2-resnet50", small_resnet)
    backbone = load_backbone("mocov2-resnet50", random_init=True)
    state = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    embeddings = backbone.model(images)
    assert relative_error(backbone.model(images[:1]), embeddings[:1]) < ROUNDING
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.model.state_dict().items())


def clip_vit() -> nn.Module:
    """Return a small image encoder of CLIP, whose joint space has 16 dimensions."""
    return timm_vit(num_classes=16, pre_norm=True, norm_layer=partial(nn.LayerNorm, eps=1e-5))


def test_openai_clip_names_are_converted(tmp_path, monkeypatch, images):
    shrink_timm(monkeypatch, "clip-vit-b16", clip_vit)
    state = random_state(openai_clip_shapes())
    torch.save(state, tmp_path / "clip.pt")
    backbone = load_backbone("clip-vit-b16", checkpoint=tmp_path / "clip.pt")
    assert torch.equal(backbone.model.head.weight, state["visual.proj"].T)
    assert torch.equal(backbone.model.norm_pre.weight, state["visual.ln_pre.weight"])
    assert torch.equal(
        backbone.model.blocks[1].attn.proj.weight, state["visual.transformer.resblocks.1.attn.out_proj.weight"]
    )
    assert backbone.model(images).shape == (3, 16)


def test_a_checkpoint_of_another_resolution_is_refused(tmp_path, monkeypatch):
    shrink_timm(monkeypatch, "clip-vit-b16", clip_vit)
    state = random_state({**openai_clip_shapes(), "visual.positional_embedding": (1 + 6**2, WIDTH)})
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(FungiError, match=r"another resolution or patch size \(pos_embed differs\)"):
        load_backbone("clip-vit-b16", checkpoint=tmp_path / "clip.pt")


def test_published_deit3_names_are_converted(tmp_path, monkeypatch):
    shrink_timm(monkeypatch, "deit3-vit-b16", partial(timm_vit, init_values=1e-6, no_embed_class=True))
    shapes = vit_shapes(layer_scale=True) | {
        "pos_embed": (1, GRID**2, WIDTH),
        "head.weight": (10, WIDTH),
        "head.bias": (10,),
    }
    published_shapes = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): shape for key, shape in shapes.items()
    }
    state = random_state(published_shapes)
    torch.save({"model": state}, tmp_path / "deit_3.pth")
    backbone = load_backbone("deit3-vit-b16", checkpoint=tmp_path / "deit_3.pth")
    assert torch.equal(backbone.model.blocks[0].ls2.gamma, state["blocks.0.gamma_2"])


@pytest.mark.parametrize("name", ["vit-s16", "mae-vit-b16", "deit-b16"])
def test_the_classification_head_of_a_timm_checkpoint_is_dropped(name, tmp_path, monkeypatch, images):
    shrink_timm(monkeypatch, name, timm_vit)
    state = random_state(vit_shapes() | {"head.weight": (10, WIDTH), "head.bias": (10,)})
    torch.save(state, tmp_path / "vit.bin")
    backbone = load_backbone(name, checkpoint=tmp_path / "vit.bin")
    expected = hub_embeddings(state, images, positions=state["pos_embed"])
    assert relative_error(backbone.model(images), expected) < ROUNDING
