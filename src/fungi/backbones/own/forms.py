"""What `--backbone NAME=KIND:PLACE` may look like; NAME becomes a folder below `--root`.

NAME=timm:ID        any model of timm by its id, with the tag of its weights: sharp=timm:convnext_tiny.fb_in22k
NAME=hf:PLACE       any encoder of `transformers`: of images, of texts, of spectrograms. PLACE is a folder that
                    `save_pretrained` wrote (with processor or tokenizer), or the id of a repository of the hub
NAME=hf-mean:PLACE  the same, its embedding being the mean of all tokens
"""

import re
from functools import cache

from fungi.backbones.base import BACKBONES, BackboneSpec
from fungi.errors import FungiError, unknown_name

FORMS = "NAME=timm:ID or NAME=hf:PLACE (hf-mean:PLACE), PLACE being a folder or a repository of the Hugging Face hub"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@cache
def own_backbone(text: str) -> BackboneSpec:
    """The encoder that `text` describes (see `resolve_backbone`); FungiError where there is none."""
    name, equals, described = text.partition("=")
    if not equals:
        raise FungiError(f"{unknown_name('backbone', name, BACKBONES.names())} For your own model write {FORMS}.")
    kind, _, place = described.partition(":")
    if kind not in ("timm", "hf", "hf-mean") or not place or not _PLAIN_NAME.fullmatch(name):
        raise FungiError(f"--backbone {text!r} is not understood. Write {FORMS}; NAME is a plain file name.")
    if name in BACKBONES:
        raise FungiError(f"--backbone {text!r}: {name!r} is the name of a known backbone. Choose another name.")
    if kind == "timm":
        from fungi.backbones.own.timm_model import timm_backbone

        return timm_backbone(name, place)
    from fungi.backbones.own.hub import hub_backbone

    return hub_backbone(name, place, mean=kind == "hf-mean")
