"""Vision encoders of 2024 and 2025 in timm: Perception Encoder (core) and AIMv2.

The embedding of the Perception Encoder is the attention-pooled token, projected to the joint image-text space. The
embedding of AIMv2 is the mean of the patches after the final norm.
"""

from fungi.backbones.timm_models import register_vit, timm_fields
from fungi.views.image import CLIP, HALF, ImageInput, SquashedInput

register_vit(
    "PE-Core-B16-224",
    label="Perception Encoder ViT-B/16",
    size="B",
    embedding_dim=1024,
    input=SquashedInput(size=224, resize=224, interpolation="bilinear", statistics=HALF),
    **timm_fields("vit_pe_core_base_patch16_224.fb", keep_classifier=True),
)
register_vit(
    "PE-Core-L14-336",
    label="Perception Encoder ViT-L/14",
    size="L",
    patch_size=14,
    embedding_dim=1024,
    input=SquashedInput(size=336, resize=336, interpolation="bilinear", statistics=HALF),
    **timm_fields("vit_pe_core_large_patch14_336.fb", keep_classifier=True),
)
register_vit(
    "aimv2-large-patch14-224",
    label="AIMv2 ViT-L/14",
    size="L",
    patch_size=14,
    bias=False,
    input=ImageInput(size=224, resize=224, interpolation="bicubic", statistics=CLIP),
    **timm_fields("aimv2_large_patch14_224.apple_pt"),
)
