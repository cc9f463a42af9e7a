"""SigLIP 2 image encoders. The embedding is the output of the attention pooling, which was trained to match texts.

Weights can have the names of timm or of the publisher's repositories (`vision_model.encoder.layers...`).
"""

from functools import partial
from typing import Any

from fungi.backbones.base import StateDict
from fungi.backbones.sources import fetch_timm
from fungi.backbones.timm_models import build_timm, register_vit, renamed, timm_names
from fungi.views.image import HALF, SquashedInput

RENAMES = (
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
    (r"^post_layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
)
"""Regular expressions for the publisher's names, and their replacements in timm's names."""


def siglip_names(state: StateDict, *, build: Any) -> StateDict:
    """Convert the publisher's names to timm's names, without the text encoder. `timm_names` converts other files.

    build: function that returns the architecture.
    """
    import torch

    if not any(name.startswith("vision_model.") for name in state):
        return timm_names(state, build=build)
    prefix = "vision_model."
    vision = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    timm_state = {
        renamed(name, RENAMES): tensor for name, tensor in vision.items() if "head.attention.in_proj" not in name
    }
    timm_state["pos_embed"] = timm_state["pos_embed"].unsqueeze(0)  # [t d] -> [1 t d]
    for kind in ("weight", "bias"):
        query, *key_and_value = vision[f"head.attention.in_proj_{kind}"].chunk(3)
        timm_state |= {f"attn_pool.q.{kind}": query.clone(), f"attn_pool.kv.{kind}": torch.cat(key_and_value)}
        # In every block of timm, one tensor contains the weights of queries, keys and values.
        for number in {name.split(".")[1] for name in timm_state if name.startswith("blocks.")}:
            query_key_value = [timm_state.pop(f"blocks.{number}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            timm_state[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(query_key_value)
    return timm_state


for _name, _label, _size, _patch, _pixels, _model in (
    ("siglip2-base-patch16-224", "SigLIP 2 ViT-B/16", "B", 16, 224, "vit_base_patch16_siglip_224.v2_webli"),
    ("siglip2-large-patch16-256", "SigLIP 2 ViT-L/16", "L", 16, 256, "vit_large_patch16_siglip_256.v2_webli"),
    (
        "siglip2-so400m-patch14-224",
        "SigLIP 2 ViT-So400m/14",
        "So400m",
        14,
        224,
        "vit_so400m_patch14_siglip_224.v2_webli",
    ),
):
    _build = partial(build_timm, _model, num_classes=0)
    register_vit(
        _name,
        label=_label,
        size=_size,
        patch_size=_patch,
        source=f"timm {_model}",
        input=SquashedInput(size=_pixels, resize=_pixels, interpolation="bilinear", statistics=HALF),
        build=_build,
        pretrained=partial(fetch_timm, _model),
        convert=partial(siglip_names, build=_build),
    )
