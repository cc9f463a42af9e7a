"""A user's own text encoder: any encoder of `transformers`, in a local folder or on the Hugging Face hub.

`--backbone NAME=hf:PLACE` pools the first token, `NAME=hf-mean:PLACE` the mean of all. PLACE is a folder that
`save_pretrained` wrote (with its tokenizer), or the id of a hub repository; NAME becomes a folder below `--root`.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

from fungi.backbones.base import BACKBONES, BackboneSpec, StateDict
from fungi.backbones.text_encoders import Pooling, pooled, text_spec
from fungi.errors import FungiError, MissingFilesError, unknown_name
from fungi.runtime.log import logger
from fungi.views.tokenizers import hub_tokenizer

POOLINGS: dict[str, Pooling] = {"hf": "first", "hf-mean": "mean"}
FORMS = "NAME=hf:PLACE (or hf-mean:PLACE), PLACE being a folder or a repository of the Hugging Face hub"
OUTPUT_PROJECTIONS = (
    "attention.output.dense",
    "SelfAttention.o",
    "attn.o",
    "self_attn.out_proj",
    "self_attn.o_proj",
    "attention.out_lin",
    "attn.Wo",
)
"""How architectures of `transformers` call the output projection of their self-attention."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def own_backbone(text: str) -> BackboneSpec:
    """The encoder that `text` describes (see `resolve_backbone`); FungiError where there is none."""
    name, equals, described = text.partition("=")
    if not equals:
        raise FungiError(
            f"{unknown_name('backbone', name, BACKBONES.names())} For your own text encoder write {FORMS}."
        )
    kind, _, place = described.partition(":")
    if kind not in POOLINGS or not place or not _PLAIN_NAME.fullmatch(name):
        raise FungiError(f"--backbone {text!r} is not understood. Write {FORMS}; NAME is a plain file name.")
    if name in BACKBONES:
        raise FungiError(f"--backbone {text!r}: {name!r} is the name of a known backbone. Choose another name.")
    return _describe(name, place, POOLINGS[kind])


def _describe(name: str, place: str, pooling: Pooling) -> BackboneSpec:
    import torch

    config = _read_config(place)
    build = partial(_build, config)
    with torch.device("meta"):
        model = build(pooling)
    layer, module = _output_projection(model)
    width = int(config.hidden_size)
    return text_spec(
        name,
        label=name,
        source=place,
        tokenizer=hub_tokenizer(name, place),
        pooling=pooling,
        embedding_dim=width,
        projection_dim=width,
        layer=layer,
        weight_shape=tuple(module.weight.shape),
        bias=module.bias is not None,
        pca_dim=512,
        build=build,
        pretrained=partial(_fetch, config, place),
    )


def _read_config(place: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise _missing(place, error) from None


def _model_class(config: Any) -> Any:
    from transformers import AutoModel, AutoModelForTextEncoding

    for known in (AutoModelForTextEncoding, AutoModel):
        if type(config) in known._model_mapping:
            return known._model_mapping[type(config)]
    raise FungiError(f"transformers has no encoder for a model of type {config.model_type!r}.")


def _options(model: Any) -> dict[str, bool]:
    """BERT and its kin have a pooler that nothing uses here."""
    import inspect

    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model.__init__).parameters else {}


def _build(config: Any, pooling: Pooling) -> Any:
    model = _model_class(config)
    return pooled(model, pooling)(config, **_options(model))


def _fetch(config: Any, place: str) -> StateDict:
    """Weights in the library's names; FungiError where some are not in the files."""
    model = _model_class(config)
    try:
        loaded, report = model.from_pretrained(place, output_loading_info=True, **_options(model))
    except (OSError, ValueError, RuntimeError) as error:
        raise _missing(place, error) from None
    if report["missing_keys"]:
        lacking = ", ".join(sorted(report["missing_keys"])[:3])
        raise FungiError(f"the weights at {place} don't fit {model.__name__}: {lacking} is missing.")
    return loaded.state_dict()


def _output_projection(model: Any) -> tuple[str, Any]:
    """The last attention output projection; where none is known by name, the last linear layer, said aloud."""
    from torch import nn

    linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not linear:
        raise FungiError("the model has no linear layer to take gradients at.")
    known = [path for path in linear if path.endswith(OUTPUT_PROJECTIONS)]
    if not known:
        logger.warning(
            "no attention output projection is known in a %s: taking its last linear layer. Name another with --layer.",
            type(model).__name__,
        )
    path = (known or list(linear))[-1]
    return path, linear[path]


def _missing(place: str, error: Exception) -> MissingFilesError:
    cause = str(error).partition("\n")[0] or type(error).__name__
    where = "the folder has to hold config.json, weights and a tokenizer, as save_pretrained writes them"
    way_out = where if Path(place).exists() else "run `hf download` where there is a network and copy HF_HOME here"
    return MissingFilesError(f"no text encoder could be read from {place} ({cause}): {way_out}.")
