"""The official DeiT and DeiT III checkpoints. The "DeiT" of the paper is in `torchvision_vit.py`."""

from fungi.backbones.timm_models import register_vit, timm_fields
from fungi.views.image import IMAGENET, ImageInput

INPUT = ImageInput(size=224, resize=248, interpolation="bicubic", statistics=IMAGENET)

for _name, _label, _size, _patch, _model, _notes in (
    (
        "deit-s16",
        "DeiT ViT-S/16",
        "S",
        16,
        "deit_small_patch16_224.fb_in1k",
        "for one ablation; the paper may have used AugReg's weights",
    ),
    ("deit-b16", "official DeiT ViT-B/16", "B", 16, "deit_base_patch16_224.fb_in1k", "not in the paper; a control"),
    ("deit3-vit-b16", "DeiT III ViT-B/16", "B", 16, "deit3_base_patch16_224.fb_in1k", ""),
    (
        "deit3-vit-h14",
        "DeiT ViT-H/14",
        "H",
        14,
        "deit3_huge_patch14_224.fb_in1k",
        "used as the paper's DeiT ViT-H/14, because the first DeiT has no model of this size",
    ),
):
    register_vit(_name, label=_label, size=_size, patch_size=_patch, input=INPUT, notes=_notes, **timm_fields(_model))
