"""Vision Transformers of "How to train your ViT?" (AugReg): supervised, ImageNet-1K or ImageNet-21K."""

from fungi.backbones.timm_models import register_vit, timm_fields
from fungi.views.image import HALF, IMAGENET, ImageInput

INPUT = ImageInput(size=224, resize=248, interpolation="bicubic", statistics=HALF)
# Deviation V2: the published code used timm's default transform instead of the transform of the models.
PUBLISHED = ImageInput(size=224, resize=256, interpolation="bicubic", statistics=IMAGENET)

for _name, _label, _size, _model in (
    ("vit-s16", "AugReg IN1K ViT-S/16", "S", "vit_small_patch16_224.augreg_in1k"),
    ("vit-b16-augreg-in1k", "AugReg IN1K ViT-B/16", "B", "vit_base_patch16_224.augreg_in1k"),
    ("vit-s16-augreg-in21k", "AugReg IN21K ViT-S/16", "S", "vit_small_patch16_224.augreg_in21k"),
    ("vit-b16-augreg-in21k", "AugReg IN21K ViT-B/16", "B", "vit_base_patch16_224.augreg_in21k"),
    ("vit-l16-augreg-in21k", "AugReg IN21K ViT-L/16", "L", "vit_large_patch16_224.augreg_in21k"),
):
    register_vit(
        _name,
        label=_label,
        size=_size,
        input=INPUT,
        published_input=PUBLISHED,
        is_in_published_code=True,
        **timm_fields(_model),
    )
