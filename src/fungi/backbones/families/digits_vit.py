"""`digits-vit`: a tiny ViT with weights inside this package, so that everything runs without a download.

`scripts/train_digits_vit.py` trained this model to classify the digits 0 to 4 of `digits`, only on rows of the train
split. The model has never seen the digits 5 to 9. In the same way, the paper's backbones have never seen the paper's
datasets.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from fungi.backbones.base import register_backbone
from fungi.backbones.checkpoints import read_checkpoint
from fungi.views.image import HALF, ImageInput

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = Path(__file__).parents[1] / "weights" / "digits_vit.safetensors"
WIDTH, DEPTH, HEADS, PATCH = 96, 4, 3, 4
INPUT = ImageInput(size=32, resize=32, interpolation="bicubic", statistics=HALF)


def build() -> "nn.Module":
    """Return the architecture: 64 patches of 4 x 4 pixels and a class token, which is the embedding."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0
    )


register_backbone(
    name="digits-vit",
    label="Digits ViT-T/4",
    source="carried in the package",
    embedding_dim=WIDTH,
    projection_dim=WIDTH,
    layer=f"blocks.{DEPTH - 1}.attn.proj",
    weight_shape=(WIDTH, WIDTH),
    pca_dim=WIDTH,
    depth=DEPTH,
    patch_size=PATCH,
    input=INPUT,
    build=build,
    pretrained=lambda: {name: tensor.float() for name, tensor in read_checkpoint(WEIGHTS).items()},
    notes="trained only on the train rows of digits 0 to 4 (scripts/train_digits_vit.py)",
)
