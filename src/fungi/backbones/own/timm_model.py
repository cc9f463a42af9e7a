"""Vision backbones of the user: any architecture of timm, with its weights, transform and pooling."""

from functools import partial
from typing import Any

from fungi.backbones.base import BackboneSpec
from fungi.backbones.own.structure import model_structure
from fungi.backbones.sources import fetch_timm
from fungi.backbones.timm_models import build_timm, timm_input, timm_names
from fungi.errors import FungiError, did_you_mean, unknown_name


def timm_backbone(name: str, model: str) -> BackboneSpec:
    """Return the backbone for a model id of timm, without the classifier.

    Raises FungiError if timm does not have the model, or if the input of the model is not a square colour image.
    """
    config = _weights_record(model)
    channels, height, width = config.test_input_size or config.input_size
    if channels != 3 or height != width:
        raise FungiError(f"timm {model} takes [{channels}, {height}, {width}]; a square image in colour is needed.")
    input_spec = timm_input(config.to_dict(), height)
    build = partial(build_timm, model, num_classes=0)
    structure = model_structure(build, (1, channels, height, width))
    # timm records the name of the classifier, several names (distilled models) or None.
    classifiers = (config.classifier,) if isinstance(config.classifier, str) else tuple(config.classifier or ())
    return BackboneSpec(
        name=name,
        label=name,
        source=f"timm {model}",
        **structure.spec_fields,
        input=input_spec,
        build=build,
        pretrained=partial(fetch_timm, model) if config.hf_hub_id else None,
        convert=partial(timm_names, build=build, heads=tuple(f"{classifier}." for classifier in classifiers)),
        notes=f"pooling: {structure.pooling or 'its own'}, no classifier; {structure}; {input_spec}",
    )


def _weights_record(model: str) -> Any:
    """Return timm's record of the weights. Raises FungiError if timm does not know the model or the weights."""
    import timm
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, is_model

    architecture, _, tag = model.partition(".")
    if not is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models()) or " timm.list_models() names all."
        raise FungiError(f"unknown model of timm {architecture!r}.{hint}")
    weights = get_arch_pretrained_cfgs(architecture)
    if tag and model not in weights:
        raise unknown_name("weights of timm", model, weights)
    config = get_pretrained_cfg(model)
    if config is None:
        raise FungiError(f"timm does not know the transform and the input size of {model}.")
    return config
