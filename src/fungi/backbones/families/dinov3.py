"""DINOv3: Vision Transformers with rotary positions and four registers, distilled on LVD-1689M.

The files of the publisher can be downloaded only after a licence agreement; the copies of timm need no agreement. Files
of both kinds can be loaded. This module uses timm's variants with biases of queries and values (`qkvb`), because only
these variants have all weights of the publisher's files. The embedding is the class token after the final norm.
"""

from functools import partial

from fungi.backbones.base import StateDict
from fungi.backbones.sources import fetch_timm
from fungi.backbones.timm_models import build_timm, register_vit
from fungi.views.image import IMAGENET, ImageInput

INPUT = ImageInput(size=224, resize=256, interpolation="bicubic", statistics=IMAGENET)
_UNUSED = ("mask_token", "local_cls_norm.", "rope_embed.")
"""Starts of names in the publisher's files that the model does not have."""
_RENAMES = (
    ("storage_tokens", "reg_token"),
    ("ls1.gamma", "gamma_1"),
    ("ls2.gamma", "gamma_2"),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.w3.", ".mlp.fc2."),
)
"""Parts of the publisher's names, and the parts that replace them in timm's names."""


def dinov3_names(state: StateDict) -> StateDict:
    """Convert the publisher's names to timm's names. A state dict with timm's names is returned unchanged.

    The bias of the keys is left out, because the publisher's code masks it.
    """
    timm_state: StateDict = {}
    for name, tensor in state.items():
        if name.endswith("attn.qkv.bias"):
            q, _, v = tensor.chunk(3)  # [3d] -> [d] each
            attention = name.removesuffix("qkv.bias")
            timm_state |= {f"{attention}q_bias": q.clone(), f"{attention}v_bias": v.clone()}
        elif not name.startswith(_UNUSED) and not name.endswith("bias_mask"):
            timm_state[_timm_name(name)] = tensor
    return timm_state


def _timm_name(name: str) -> str:
    for publisher_part, timm_part in _RENAMES:
        name = name.replace(publisher_part, timm_part)
    return name


for _name, _label, _size, _model in (
    ("dinov3_vits16", "DINOv3 ViT-S/16", "S", "vit_small_patch16_dinov3_qkvb.lvd1689m"),
    ("dinov3_vits16plus", "DINOv3 ViT-S+/16", "S", "vit_small_plus_patch16_dinov3_qkvb.lvd1689m"),
    ("dinov3_vitb16", "DINOv3 ViT-B/16", "B", "vit_base_patch16_dinov3_qkvb.lvd1689m"),
    ("dinov3_vitl16", "DINOv3 ViT-L/16", "L", "vit_large_patch16_dinov3_qkvb.lvd1689m"),
    ("dinov3_vith16plus", "DINOv3 ViT-H+/16", "H", "vit_huge_plus_patch16_dinov3_qkvb.lvd1689m"),
):
    register_vit(
        _name,
        label=_label,
        size=_size,
        source=f"timm {_model}",
        input=INPUT,
        build=partial(build_timm, _model, num_classes=0, global_pool="token"),
        pretrained=partial(fetch_timm, _model, num_classes=0, global_pool="token"),
        convert=dinov3_names,
        notes="the weights have the DINOv3 license",
    )
