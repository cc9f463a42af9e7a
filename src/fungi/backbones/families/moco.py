"""MoCo v3 (ViT-B/16) and MoCo v2 (ResNet-50), from the training checkpoints that the authors published."""

from functools import partial
from typing import TYPE_CHECKING

from fungi.backbones.base import StateDict, register_backbone
from fungi.backbones.sources import fetch_url
from fungi.backbones.timm_models import build_timm, register_vit, without_prefix
from fungi.views.image import IMAGENET, ImageInput

if TYPE_CHECKING:
    from torch import nn

HUB = "https://dl.fbaipublicfiles.com"
INPUT = ImageInput(size=224, resize=256, interpolation="bilinear", statistics=IMAGENET)


def encoder_of(state: StateDict, *, prefix: str, head: str) -> StateDict:
    """Return the encoder in a training checkpoint: the entries under `prefix`, without the projection head.

    head: prefix of the projection head after `prefix` is removed. The momentum encoder, the predictor and the queue are
    dropped. If no entry has the prefix, the state dict already contains only the encoder.
    """
    encoder = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return without_prefix(encoder or state, head)


def build_resnet50() -> "nn.Module":
    """Return torchvision's ResNet-50 without its classifier; the embedding is the average over all positions."""
    from torch import nn
    from torchvision.models import resnet50

    model = resnet50(weights=None)
    model.fc = nn.Identity()
    return model


register_vit(
    "vit-b16-mocov3",
    label="MoCov3 ViT-B/16",
    size="B",
    source="facebookresearch/moco-v3 vit-b-300ep.pth.tar",
    input=INPUT,
    build=partial(build_timm, "vit_base_patch16_224", num_classes=0),
    pretrained=partial(fetch_url, f"{HUB}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar"),
    convert=partial(encoder_of, prefix="module.base_encoder.", head="head."),
    is_in_published_code=True,
    notes="the fixed sine-cosine position embedding is part of the checkpoint",
)

register_backbone(
    name="mocov2-resnet50",
    label="MoCov2 ResNet-50",
    source="facebookresearch/moco moco_v2_800ep_pretrain.pth.tar",
    embedding_dim=2048,
    projection_dim=2048,
    layer="layer4.2.conv3",
    weight_shape=(2048, 512, 1, 1),
    bias=False,
    pca_dim=512,
    input=INPUT,
    build=build_resnet50,
    pretrained=partial(fetch_url, f"{HUB}/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar"),
    convert=partial(encoder_of, prefix="module.encoder_q.", head="fc."),
)
