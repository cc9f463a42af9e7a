"""CLIP image encoders (OpenAI) and EVA-CLIP: the embedding is the class token projected to the joint space.

The weights were trained with QuickGELU, but timm's standard variants use GELU. The published numbers come from these
standard variants (spec vision 10, V6). The `-quickgelu` variants use QuickGELU. Both variants load the same file.
"""

from fungi.backbones.timm_models import register_vit, timm_fields
from fungi.views.image import CLIP, IMAGENET, ImageInput

BASE_INPUT = ImageInput(size=224, resize=248, interpolation="bicubic", statistics=CLIP)
LARGE_INPUT = ImageInput(size=224, resize=224, interpolation="bicubic", statistics=CLIP)

for _suffix, _infix in (("", ""), ("-quickgelu", "_quickgelu")):
    register_vit(
        f"clip-vit-b16{_suffix}",
        label=f"CLIP ViT-B/16{' (QuickGELU)' if _suffix else ''}",
        size="B",
        embedding_dim=512,
        input=BASE_INPUT,
        is_in_published_code=not _suffix,
        **timm_fields(f"vit_base_patch16_clip{_infix}_224.openai", keep_classifier=True),
    )
    register_vit(
        f"clip-vit-l14{_suffix}",
        label=f"CLIP ViT-L/14{' (QuickGELU)' if _suffix else ''}",
        size="L",
        patch_size=14,
        embedding_dim=768,
        input=LARGE_INPUT,
        **timm_fields(f"vit_large_patch14_clip{_infix}_224.openai", keep_classifier=True),
    )

register_vit(
    "eva-clip-vit-b16",
    label="EVA-CLIP ViT-B/16",
    size="B",
    embedding_dim=512,
    input=BASE_INPUT,
    # Deviation V2: the published code used timm's default transform instead of the transform of the model.
    published_input=ImageInput(size=224, resize=256, interpolation="bicubic", statistics=IMAGENET),
    is_in_published_code=True,
    **timm_fields("eva02_base_patch16_clip_224.merged2b", keep_classifier=True),
)
