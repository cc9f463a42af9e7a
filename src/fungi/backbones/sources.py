"""Where published weights come from: one route per kind of source, each through its library's own cache.

Nothing here runs unless published weights were asked for. Every route says, where it can't go on, what was sought and
where to put it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fungi.backbones.base import StateDict
from fungi.backbones.checkpoints import read_checkpoint
from fungi.errors import MissingFilesError


def from_url(url: str, *, hash_prefix: str | None = None) -> Callable[[], StateDict]:
    """Fetches the checkpoint at a URL into torch hub's cache, unless it is there already."""

    def fetch() -> StateDict:
        import torch

        file = cached_file(url)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with reachable(url, f"put the file at {file}"):
                torch.hub.download_url_to_file(url, str(file), hash_prefix)
        return read_checkpoint(file)

    return fetch


def from_timm(name: str, **options: Any) -> Callable[[], StateDict]:
    """Fetches the weights of a timm model, by its name with the tag, into the cache of the Hugging Face hub.

    The model is made with the number of outputs that it was published with: timm then loads strictly.
    """

    def fetch() -> StateDict:
        import timm

        where = _hub_location(name)
        with reachable(where, "fill the Hugging Face cache (HF_HOME) on a machine with a network"):
            return timm.create_model(name, pretrained=True, **options).state_dict()

    return fetch


def cached_file(url: str) -> Path:
    """Where torch hub keeps what it fetched from a URL."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


@contextmanager
def reachable(what: str, way_out: str) -> Iterator[None]:
    """Turn what the network can do to us into one line; RuntimeError is how torch hub tells of a damaged download."""
    from httpx import HTTPError

    try:
        yield
    except (OSError, HTTPError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise MissingFilesError(
            f"the weights {what} are not on disk and can't be fetched ({reason}). "
            f"Either {way_out}, or pass --checkpoint FILE (or --random-init for a dry run)."
        ) from None


def _hub_location(name: str) -> str:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    assert config is not None, f"timm knows no weights {name!r}"
    file = config.hf_hub_filename or "model.safetensors"
    return f"{file} of huggingface.co/{config.hf_hub_id} (timm {name})"
