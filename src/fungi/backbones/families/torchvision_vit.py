"""torchvision's supervised ViTs ("DeiT" in the paper), converted to timm's layout.

The attention of torchvision computes its output projection with a function, so hooks on this layer are never called
(spec vision 10, V1). In timm's layout, the same weights compute the same function, and the hooks are called. Layer
paths of torchvision are also accepted.
"""

from functools import partial

from fungi.backbones.base import StateDict
from fungi.backbones.sources import fetch_url
from fungi.backbones.timm_models import build_timm, register_vit, renamed, without_prefix
from fungi.views.image import IMAGENET, ImageInput

RENAMES = (
    (r"^conv_proj(?=\.|$)", "patch_embed.proj"),
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln(?=\.|$)", "norm"),
    (r"^encoder\.layers\.encoder_layer_(\d+)(?=\.|$)", r"blocks.\1"),
    (r"^(blocks\.\d+)\.ln_([12])(?=\.|$)", r"\1.norm\2"),
    (r"^(blocks\.\d+)\.self_attention(?=\.|$)", r"\1.attn"),
    (r"^(blocks\.\d+\.attn)\.in_proj_(weight|bias)$", r"\1.qkv.\2"),
    (r"^(blocks\.\d+\.attn)\.in_proj$", r"\1.qkv"),
    (r"^(blocks\.\d+\.attn)\.out_proj(?=\.|$)", r"\1.proj"),
    # The published files have the names of torchvision's first release, linear_1 and linear_2.
    (r"^(blocks\.\d+\.mlp)\.(?:0|linear_1)(?=\.|$)", r"\1.fc1"),
    (r"^(blocks\.\d+\.mlp)\.(?:3|linear_2)(?=\.|$)", r"\1.fc2"),
)
"""Regular expressions for torchvision's names, and their replacements in timm's names."""


def timm_path(path: str) -> str:
    """Convert a layer path or key of torchvision's VisionTransformer to timm's path; keep other paths unchanged."""
    return renamed(path, RENAMES)


def timm_layout(state: StateDict) -> StateDict:
    """Convert the weights of a torchvision VisionTransformer to timm's layout, without the classifier."""
    return {timm_path(name): tensor for name, tensor in without_prefix(state, "heads.").items()}


for _name, _label, _size, _patch, _model, _file, _resize in (
    ("vit-b16", "DeiT ViT-B/16", "B", 16, "vit_base_patch16_224", "vit_b_16-c867db91.pth", 256),
    ("vit-b32", "DeiT ViT-B/32", "B", 32, "vit_base_patch32_224", "vit_b_32-d86f8d99.pth", 256),
    ("vit-l16", "DeiT ViT-L/16", "L", 16, "vit_large_patch16_224", "vit_l_16-852ce7e3.pth", 242),
):
    register_vit(
        _name,
        label=_label,
        size=_size,
        patch_size=_patch,
        source=f"torchvision {_file}",
        input=ImageInput(size=224, resize=_resize, interpolation="bilinear", statistics=IMAGENET),
        build=partial(build_timm, _model, num_classes=0),
        pretrained=partial(
            fetch_url,
            f"https://download.pytorch.org/models/{_file}",
            hash_prefix=_file.removesuffix(".pth").rsplit("-")[-1],
        ),
        convert=timm_layout,
        layer_alias=timm_path,
        attention_input=True,
        is_in_published_code=_name != "vit-l16",
    )
