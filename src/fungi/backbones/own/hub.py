"""Reading a model of `transformers`, from a folder or the hub: its configuration and its weights."""

from typing import Any

from fungi.backbones.base import StateDict
from fungi.backbones.sources import fetch_elsewhere
from fungi.errors import FungiError, MissingFilesError
from fungi.runtime.network import only_on_disk


def read_config(place: str) -> Any:
    """The configuration of a model; MissingFilesError where there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False, local_files_only=only_on_disk(place))
    except (OSError, ValueError) as error:
        raise missing(place, error) from None


def model_options(model: Any) -> dict[str, bool]:
    """BERT, ViT and their kin have a pooler that not all weights have, and that nothing uses here."""
    import inspect

    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model.__init__).parameters else {}


def fetch(model: Any, config: Any, place: str) -> StateDict:
    """Weights in the library's names; FungiError where some are not in the files."""
    try:
        options = model_options(model) | {"local_files_only": only_on_disk(place)}
        loaded, report = model.from_pretrained(place, config=config, output_loading_info=True, **options)
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
    way_out = where if Path(place).exists() else fetch_elsewhere(place)
    return MissingFilesError(f"no encoder could be read from {place} ({cause}): {way_out}.")
