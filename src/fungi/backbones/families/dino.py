"""DINO and DINOv2: the checkpoints of the authors' torch hub entries, in timm's architecture.

The hub's code computes the same function with the same key names (class token after the final norm, LayerNorm eps
1e-6, DINOv2 with LayerScale), so no source code has to be fetched. One thing differs: at 224 px DINOv2 interpolates its
position embedding, and timm does that with antialiasing. Here it is done once, when loading, the hub's way.
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
    """A DINOv2 hub checkpoint for the model at 224 px; the mask token is of use in training alone."""
    from fungi.backbones.position_embedding import hub_positions

    state = {name: tensor for name, tensor in state.items() if name != "mask_token"}
    if "pos_embed" in state:
        state["pos_embed"] = hub_positions(state["pos_embed"], grid=grid)
    return state


for _name, _label, _size, _model, _file, _enumerated in (
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
        enumerated=_enumerated,
    )

for _name, _label, _size, _model, _enumerated in (
    ("dinov2_vitb14", "DINOv2 ViT-B/14", "B", "vit_base_patch14_dinov2.lvd142m", True),
    ("dinov2_vitl14", "DINOv2 ViT-L/14", "L", "vit_large_patch14_dinov2.lvd142m", False),
):
    register_vit(
        _name,
        label=_label,
        size=_size,
        source=f"torch hub facebookresearch/dinov2, {_name}_pretrain.pth",
        input=INPUT,
        build=partial(build_timm, _model, num_classes=0, img_size=224),
        pretrained=partial(fetch_url, f"{HUB}/dinov2/{_name}/{_name}_pretrain.pth"),
        convert=dinov2_names,
        enumerated=_enumerated,
        notes="position embedding interpolated as the hub does",
    )
