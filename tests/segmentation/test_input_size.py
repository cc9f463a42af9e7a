"""Registered vision transformers accept other input sizes. Their position embeddings are resized."""

import re
from pathlib import Path

import pytest
import torch
from timm.models.eva import Eva
from torch.nn.functional import interpolate

from fungi.backbones.base import BACKBONES
from fungi.backbones.encoders import TokenEncoder
from fungi.errors import FungiError
from fungi.segmentation.dense import set_input_size
from tests.segmentation.tiny import PATCH, SIZE, WIDTH, extractor, images, random_support, tiny_vit

FAST = ("udi", "udi-one", "dinov3")


def family(name: str) -> str:
    """Return the part of a name that does not depend on the size, such as `dinov2-reg` of `dinov2_vitb14_reg`."""
    stem = re.match(r"[A-Za-z]+\d?", name)[0]
    return stem + "".join(f"-{suffix}" for suffix in ("reg", "one", "decoder", "resnet") if suffix in name)


SMALLEST = {
    family(name): name  # later entries of a family replace earlier ones, and the narrowest comes last
    for name in sorted(BACKBONES, key=lambda name: -BACKBONES[name].embedding_dim)
    if BACKBONES[name].modality == "vision"
}
# Starts of the names of backbones without patch tokens in the space of the embedding.
REFUSED = ("PE-Core", "aimv2", "siglip2", "clip-resnet", "efficientnet", "mobileclip", "mocov2", "mae-vit-b16-decoder")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if kind in FAST else pytest.mark.slow) for kind, name in SMALLEST.items()]
)
def test_every_family_supports_another_size_or_is_refused(name: str) -> None:
    """The test uses the meta device, which computes only shapes."""
    spec = BACKBONES[name]
    with torch.device("meta"):
        model = spec.build().eval()
    if name.startswith(REFUSED):
        with pytest.raises(FungiError, match="has no patch tokens in the space of its embedding"):
            set_input_size(model, 448)
        return
    patch = model.patch_embed.patch_size[0]
    size = spec.input.size + 2 * patch
    set_input_size(model, size)
    with torch.no_grad():
        encoded = TokenEncoder(model)(torch.empty(2, 3, size, size, device="meta"))
    assert encoded.patches.shape == (2, (size // patch) ** 2, spec.embedding_dim)


KINDS = {
    "registers with positions": {"registers": 1},  # UDI's second class token
    "registers without positions": {"registers": 2, "no_embed_class": True},  # DINOv2's
    "no prefix with a position": {"no_embed_class": True},  # DeiT III
    "rotary positions": {"kind": Eva, "use_abs_pos_emb": False, "use_rot_pos_emb": True, "registers": 2},  # DINOv3
    "a joint space": {"num_classes": 7},  # CLIP
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_features_at_another_size(kind: str, tmp_path: Path) -> None:
    model = tiny_vit(**KINDS[kind])
    set_input_size(model, 32)
    width = model.head(torch.zeros(1, WIDTH)).shape[1]
    support = random_support(tmp_path / "bank", width=width)
    pixels = interpolate(images(2), scale_factor=2)
    features = extractor(model, size=32).features("embeddings+simclr", pixels, [1, 2], support)
    assert features.shape == (2, (32 // PATCH) ** 2, width + 12)  # twelve rows of the projection
    assert bool(features.isfinite().all())


@pytest.mark.parametrize(("options", "prefix"), [({}, 1), (KINDS["registers with positions"], 2)])
def test_positions_of_patches_are_resized_as_in_the_hub_and_other_positions_stay(options: dict, prefix: int) -> None:
    model = tiny_vit(**options)
    before = model.pos_embed.detach().clone()
    set_input_size(model, SIZE)
    assert torch.equal(model.pos_embed, before)
    set_input_size(model, 32)
    hub = interpolate(as_map(before[:, prefix:]), scale_factor=(8.1 / 4, 8.1 / 4), mode="bicubic")
    torch.testing.assert_close(as_map(model.pos_embed.detach()[:, prefix:]), hub)
    assert torch.equal(model.pos_embed[:, :prefix], before[:, :prefix])


@pytest.mark.parametrize("registers", [0, 2])
def test_positions_without_a_prefix_are_antialiased_if_the_model_has_registers(registers: int) -> None:
    """The hub code of DINOv2 does so. Antialiasing matters only if the grid becomes smaller."""
    model = tiny_vit(registers=registers, no_embed_class=True)
    before = model.pos_embed.detach().clone()
    set_input_size(model, 8)
    options = {"size": (2, 2), "antialias": True} if registers else {"scale_factor": (2.1 / 4, 2.1 / 4)}
    expected = interpolate(as_map(before), mode="bicubic", **options)
    torch.testing.assert_close(as_map(model.pos_embed.detach()), expected)


def as_map(positions: torch.Tensor) -> torch.Tensor:
    """Return positions `[1 g*g d]` as a map `[1 d g g]`."""
    side = round(positions.shape[1] ** 0.5)
    return positions.transpose(1, 2).unflatten(2, (side, side))


def test_impossible_sizes_and_models_without_patch_tokens_are_refused() -> None:
    with pytest.raises(FungiError, match="--input-size 30 is not a multiple of the model's patches of 4"):
        set_input_size(tiny_vit(), 30)
    with pytest.raises(FungiError, match="a Linear has no patch tokens"):
        set_input_size(torch.nn.Linear(2, 2), 32)
    with pytest.raises(FungiError, match=r"is fixed\. Use --input-size 16"):
        set_input_size(OneSize(tiny_vit()), 32)


class OneSize(torch.nn.Module):
    """A vision transformer with a fixed input size, as in some models of timm."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        for name in ("patch_embed", "fc_norm", "head", "cls_token", "embed_dim", "num_prefix_tokens"):
            setattr(self, name, getattr(model, name))
        self.forward_features = model.forward_features
