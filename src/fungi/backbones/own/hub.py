"""Read the configuration and the weights of a model of `transformers`, from a folder or the hub."""

from typing import Any

from fungi.backbones.base import StateDict
from fungi.backbones.sources import download_advice
from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.network import only_on_disk


def read_config(place: str) -> Any:
    """Return the configuration of a model. Raises MissingFilesError if the configuration cannot be read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=only_on_disk(place))
    except (OSError, ValueError) as error:
        raise unreadable_model(place, error) from None


def model_options(model_class: Any) -> dict[str, bool]:
    """Return the arguments that build a model without a pooler (BERT, ViT); empty for classes without this option.

    The embedding does not depend on the pooler, and some files do not have the weights of the pooler.
    """
    import inspect

    has_pooler = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if has_pooler else {}


def fetch(model_class: Any, config: Any, place: str) -> StateDict:
    """Return the weights at a place (folder or repository) for a model of this class and configuration.

    Raises MissingFilesError if the weights can't be read, and FungiError if some weights are missing.
    """
    try:
        options = model_options(model_class) | {"local_files_only": only_on_disk(place)}
        loaded, report = model_class.from_pretrained(place, config=config, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise unreadable_model(place, error) from None
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise FungiError(f"the weights at {place} don't fit {model_class.__name__}: {names} is missing.")
    return loaded.state_dict()


def unreadable_model(place: str, error: Exception) -> MissingFilesError:
    """Return the error for a folder or repository from which no model can be read."""
    from pathlib import Path

    cause = str(error).partition("\n")[0] or type(error).__name__
    folder_advice = "the folder needs config.json, weights and a tokenizer or processor, as save_pretrained writes them"
    advice = folder_advice if Path(place).exists() else download_advice(place)
    return MissingFilesError(f"no encoder could be read from {place} ({cause}): {advice}.")
