"""A user's own model of `transformers`: its configuration says whether it takes images, spectrograms or texts."""

from typing import Any

from fungi.backbones.base import BackboneSpec, StateDict
from fungi.errors import FungiError, MissingFilesError


def hub_backbone(name: str, place: str, *, mean: bool) -> BackboneSpec:
    """The encoder in a folder or a repository; FungiError for one of another kind, MissingFilesError for none."""
    from fungi.backbones.own.spectrograms import SPECTROGRAM_MODELS, spectrogram_backbone
    from fungi.backbones.own.text import text_backbone
    from fungi.backbones.own.vision import vision_backbone

    config = read_config(place)
    config = getattr(config, "vision_config", config)  # the image tower of a model of images and texts
    if any(hasattr(config, name) for name in ("image_size", "num_channels")):
        return vision_backbone(name, place, config, mean=mean)
    if config.model_type in SPECTROGRAM_MODELS:
        return spectrogram_backbone(name, place, config, mean=mean)
    if hasattr(config, "vocab_size") and not hasattr(config, "conv_dim"):
        return text_backbone(name, place, config, mean=mean)
    raise FungiError(
        f"{place} is a model of type {config.model_type!r}, which takes neither images nor texts nor spectrograms "
        f"({', '.join(SPECTROGRAM_MODELS)})."
    )


def read_config(place: str) -> Any:
    """The configuration of a model; MissingFilesError where there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise missing(place, error) from None


def model_options(model: Any) -> dict[str, bool]:
    """BERT, ViT and their kin have a pooler that not all weights have, and that nothing uses here."""
    import inspect

    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model.__init__).parameters else {}


def fetch(model: Any, config: Any, place: str) -> StateDict:
    """Weights in the library's names; FungiError where some are not in the files."""
    try:
        loaded, report = model.from_pretrained(place, config=config, output_loading_info=True, **model_options(model))
    except (OSError, ValueError, RuntimeError) as error:
        raise missing(place, error) from None
    if report["missing_keys"]:
        lacking = ", ".join(sorted(report["missing_keys"])[:3])
        raise FungiError(f"the weights at {place} don't fit {model.__name__}: {lacking} is missing.")
    return loaded.state_dict()


def missing(place: str, error: Exception) -> MissingFilesError:
    """The error for a place that holds no model that can be read."""
    from pathlib import Path

    cause = str(error).partition("\n")[0] or type(error).__name__
    where = "the folder has to hold config.json, weights and a tokenizer or processor, as save_pretrained writes them"
    way_out = where if Path(place).exists() else "run `hf download` where there is a network and copy HF_HOME here"
    return MissingFilesError(f"no encoder could be read from {place} ({cause}): {way_out}.")
