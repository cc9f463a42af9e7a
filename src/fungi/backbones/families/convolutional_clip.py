"""CLIP encoders with convolutions: MobileCLIP-S1 and CLIP ResNet-50. The embedding is the joint-space output."""

import re

from fungi.backbones.base import register_backbone
from fungi.backbones.timm_models import timm_fields
from fungi.views.image import CLIP, UNIT, ImageInput

CONVOLUTIONS = {"1": "conv1_1x1", "2": "conv2_kxk", "3": "conv3_1x1"}
"""Number of a convolution in a block of CLIP -> its name in timm."""


def timm_resnet_path(path: str) -> str:
    """Convert a path of the original CLIP code: `layer4.2.conv3` -> `stages.3.2.conv3_1x1.conv`. Keep other paths."""
    match = re.fullmatch(r"(?:visual\.)?layer([1-4])\.(\d+)\.conv([123])", path)
    if not match:
        return path
    stage, block, convolution = match.groups()
    return f"stages.{int(stage) - 1}.{block}.{CONVOLUTIONS[convolution]}.conv"


register_backbone(
    name="mobileclip-s1",
    label="MobileCLIP-S1",
    embedding_dim=512,
    projection_dim=512,
    layer="stages.3.blocks.3.token_mixer.proj",
    weight_shape=(512, 512),
    pca_dim=512,
    input=ImageInput(size=256, resize=269, interpolation="bicubic", statistics=UNIT),
    **timm_fields("fastvit_mci1.apple_mclip", keep_classifier=True),
)

register_backbone(
    name="clip-resnet50",
    label="CLIP ResNet-50",
    embedding_dim=1024,
    projection_dim=1024,
    layer="stages.3.2.conv3_1x1.conv",
    weight_shape=(2048, 512, 1, 1),
    bias=False,
    pca_dim=512,
    input=ImageInput(size=224, resize=248, interpolation="bicubic", statistics=CLIP),
    layer_alias=timm_resnet_path,
    **timm_fields("resnet50_clip.openai", keep_classifier=True),
)
