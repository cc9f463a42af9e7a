"""Masked autoencoder: the class token after the final norm, known to be weak for nearest neighbours."""

from fungi.backbones.timm_models import register_vit, timm_fields
from fungi.views.image import IMAGENET, ImageInput

register_vit(
    "mae-vit-b16",
    label="MAE ViT-B/16",
    size="B",
    input=ImageInput(size=224, resize=248, interpolation="bicubic", statistics=IMAGENET),
    enumerated=True,
    notes="about 24 % mean kNN accuracy is expected",
    **timm_fields("vit_base_patch16_224.mae"),
)
