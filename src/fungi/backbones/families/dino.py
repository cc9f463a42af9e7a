"""DINO and DINOv2: the checkpoints of the authors' torch hub entries, in timm's architecture.

timm computes the same function as the code of the hub, with the same key names, so no source code has to be downloaded.
The embedding is the class token after the final norm. LayerNorm has eps 1e-6, and DINOv2 has LayerScale.

At 224 px, DINOv2 interpolates its position embedding, and timm interpolates differently. Therefore, this module
interpolates the embedding once, when it loads the weights, as the code of the hub does: with antialiasing for models
with registers, without antialiasing for other models.
"""

from functools import partial

from fungi.backbones.base import StateDict
from fungi.backbones.sources import fetch_url
from fungi.backbones.timm_models import build_timm, register_vit
from fungi.views.image import IMAGENET, ImageInput

HUB = "https://dl.fbaipublicfiles.com"
INPUT = ImageInput(size=224, resize=256, interpolation="bicubic", statistics=IMAGENET)
GRID = 16  # patches along a side: 224 px / 14 px


def dinov2_names(state: StateDict, *, grid: int = GRID) -> StateDict:
    """Convert the names of a DINOv2 checkpoint of the hub to timm's names, and scale its position embedding.

    grid: number of patches along a side of the scaled embedding. The mask token is dropped, because only training uses
    it.
    """
    from fungi.backbones.position_embedding import hub_positions

    # The two layers of the giant model's gated MLP have other names in timm.
    state = {
        name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): tensor
        for name, tensor in state.items()
        if name != "mask_token"
    }
    if "register_tokens" in state or "reg_token" in state:
        return _with_registers(state, grid)
    if "pos_embed" in state:
        state["pos_embed"] = hub_positions(state["pos_embed"], grid=grid)
    return state


def _with_registers(state: StateDict, grid: int) -> StateDict:
    """Convert the weights of a model with registers. In timm, only patches have positions: `[1 1+t d] -> [1 t d]`.

    The sum of the class token and its position is the class token of timm.
    """
    import torch

    from fungi.backbones.position_embedding import hub_positions

    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    # `hub_positions` expects a class token before the patches and returns it unchanged; [:, 1:] removes it again.
    positions = torch.cat([state["cls_token"], state["pos_embed"]], dim=1)
    return state | {"pos_embed": hub_positions(positions, grid=grid, antialias=True)[:, 1:]}


for _name, _label, _size, _model, _file, _is_in_published_code in (
    ("dino_vitb16", "DINO ViT-B/16", "B", "vit_base_patch16_224.dino", "dino_vitbase16_pretrain", True),
    ("dino_vits16", "DINO ViT-S/16", "S", "vit_small_patch16_224.dino", "dino_deitsmall16_pretrain", False),
):
    register_vit(
        _name,
        label=_label,
        size=_size,
        source=f"torch hub facebookresearch/dino:main, {_file}.pth",
        input=INPUT,
        build=partial(build_timm, _model, num_classes=0),
        pretrained=partial(fetch_url, f"{HUB}/dino/{_file}/{_file}.pth"),
        is_in_published_code=_is_in_published_code,
    )

for _letter, _size, _model in (
    ("s", "S", "vit_small_patch14_{}dinov2.lvd142m"),
    ("b", "B", "vit_base_patch14_{}dinov2.lvd142m"),
    ("l", "L", "vit_large_patch14_{}dinov2.lvd142m"),
    ("g", "G", "vit_giant_patch14_{}dinov2.lvd142m"),
):
    for _suffix, _file_suffix, _infix in (("", "", ""), ("_reg", "_reg4", "reg4_")):
        _name = f"dinov2_vit{_letter}14"
        register_vit(
            _name + _suffix,
            label=f"DINOv2 ViT-{_size}/14{' with registers' if _suffix else ''}",
            size=_size,
            patch_size=14,
            source=f"torch hub facebookresearch/dinov2, {_name}{_file_suffix}_pretrain.pth",
            input=INPUT,
            build=partial(build_timm, _model.format(_infix), num_classes=0, img_size=224),
            pretrained=partial(fetch_url, f"{HUB}/dinov2/{_name}/{_name}{_file_suffix}_pretrain.pth"),
            convert=dinov2_names,
            is_in_published_code=_name + _suffix == "dinov2_vitb14",
            notes="position embedding interpolated as in the code of the hub",
        )
