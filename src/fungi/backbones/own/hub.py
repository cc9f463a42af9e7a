"""Read the configuration and the weights of a model of `transformers`, from a folder or the hub."""

from typing import Any

from fungi.backbones.base import StateDict
from fungi.backbones.sources import fetch_elsewhere
from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.network import only_on_disk


def read_config(place: str) -> Any:
    """Return the configuration of a model. Raises MissingFilesError if it cannot be read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=only_on_disk(place))
    except (OSError, ValueError) as error:
        raise missing(place, error) from None


def model_options(model: Any) -> dict[str, bool]:
    """Return options that leave out the pooler of BERT and ViT: it is not used, and not all weights have it."""
    import inspect

    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model.__init__).parameters else {}


def fetch(model: Any, config: Any, place: str) -> StateDict:
    """Return the weights of a model. Raises FungiError if some are missing, MissingFilesError if none can be read."""
    try:
        options = model_options(model) | {"local_files_only": only_on_disk(place)}
        loaded, report = model.from_pretrained(place, config=config, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise missing(place, error) from None
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise FungiError(f"the weights at {place} don't fit {model.__name__}: {names} is missing.")
    return loaded.state_dict()


def missing(place: str, error: Exception) -> MissingFilesError:
    """Return the error for a folder or repository from which no model can be read."""
    from pathlib import Path

    cause = str(error).partition("\n")[0] or type(error).__name__
    content = "the folder needs config.json, weights and a tokenizer or processor, as save_pretrained writes them"
    way_out = content if Path(place).exists() else fetch_elsewhere(place)
    return MissingFilesError(f"no encoder could be read from {place} ({cause}): {way_out}.")
