"""Parse `--backbone NAME=KIND:PLACE`, a backbone of the user. NAME is the name of the backbone in paths of files.

NAME=timm:ID        a model of timm. ID contains the tag of the weights: sharp=timm:convnext_tiny.fb_in22k
NAME=hf:PLACE       an encoder of `transformers` for images, texts or spectrograms. PLACE is a folder that
                    `save_pretrained` wrote (with a processor or tokenizer), or the id of a repository of the hub
NAME=hf-mean:PLACE  the same encoder, with the mean of all tokens as its embedding
"""

import re
from functools import cache

from fungi.backbones.base import BACKBONES, BackboneSpec
from fungi.backbones.own.hub import read_config
from fungi.backbones.own.spectrograms import SPECTROGRAM_MODELS, spectrogram_backbone
from fungi.backbones.own.text import text_backbone
from fungi.backbones.own.timm_model import timm_backbone
from fungi.backbones.own.vision import vision_backbone
from fungi.errors import FungiError, did_you_mean

KINDS = ("timm", "hf", "hf-mean")
FORMS = "NAME=timm:ID or NAME=hf:PLACE (hf-mean:PLACE), where PLACE is a folder or a repository of the Hugging Face hub"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Pattern of names that are valid in paths of files."""


@cache
def own_backbone(text: str) -> BackboneSpec:
    """Return the backbone of the user that `text` describes (see the top of this file).

    Raises FungiError if the description is invalid.
    """
    name, equals, kind_and_place = text.partition("=")
    if not equals:
        raise _unknown(text)
    kind, _, place = kind_and_place.partition(":")
    if kind not in KINDS or not place or not _PLAIN_NAME.fullmatch(name):
        raise FungiError(
            f"--backbone {text!r} is not understood. Write {FORMS}; NAME has only letters, digits and the characters "
            "'.', '_' and '-'."
        )
    if name in BACKBONES:
        raise FungiError(f"--backbone {text!r}: {name!r} is the name of a known backbone. Choose another name.")
    if kind == "timm":
        return timm_backbone(name, place)
    return _hub_backbone(name, place, mean=kind == "hf-mean")


def _unknown(text: str) -> FungiError:
    """Return the error for an unknown name, with the form that the user probably meant."""
    kind, colon, place = text.partition(":")
    if colon and kind in KINDS and place:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", place.rstrip("/").rpartition("/")[2]).strip("._-") or "mine"
        return FungiError(f"--backbone {text!r} has no name for the results. Write --backbone {name}={text}.")
    hint = did_you_mean(text, BACKBONES)
    if hint:
        return FungiError(f"unknown backbone {text!r}.{hint}")
    return FungiError(f"unknown backbone {text!r}. `fungi list backbones` names all. For your own model write {FORMS}.")


def _hub_backbone(name: str, place: str, *, mean: bool) -> BackboneSpec:
    """Return the backbone for a model of `transformers`.

    The configuration of the model shows whether the model takes images, spectrograms or texts. Raises FungiError for
    another kind of model.
    """
    config = read_config(place)
    config = getattr(config, "vision_config", config)  # a model for images and texts: use only its image encoder
    if any(hasattr(config, attribute) for attribute in ("image_size", "num_channels")):
        return vision_backbone(name, place, config, mean=mean)
    if config.model_type in SPECTROGRAM_MODELS:
        return spectrogram_backbone(name, place, config, mean=mean)
    if hasattr(config, "vocab_size") and not hasattr(config, "conv_dim"):
        return text_backbone(name, place, config, mean=mean)
    raise FungiError(
        f"{place} is a model of type {config.model_type!r}, which takes neither images nor texts nor spectrograms "
        f"({', '.join(SPECTROGRAM_MODELS)})."
    )
