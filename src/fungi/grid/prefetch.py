"""`fungi prefetch`: download the weights and datasets of the grid on a node with a network, and verify them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fungi.backbones.base import BackboneSpec, resolve_backbone
from fungi.errors import FungiError
from fungi.grid.settings import GridSettings
from fungi.settings import setting
from fungi.views.text import TextInput

if TYPE_CHECKING:
    from fungi.data.base import DatasetSpec
    from fungi.grid.declaration import Grid

DESCRIPTION = """Download the weights of the grid into their caches and the datasets into the data folder, and verify
them: weights must match the model exactly, splits must have the published numbers of rows and classes. Run this on a
login node; jobs then need no network.

The caches are $HF_HOME and $TORCH_HOME. Jobs must have access to them."""


@dataclass(frozen=True, kw_only=True)
class PrefetchSettings(GridSettings):
    """Settings of `fungi prefetch`."""

    weights: bool = setting(True, "download the weights of the backbones")
    data: bool = setting(True, "download the datasets")


def run(settings: PrefetchSettings) -> None:
    """Download and verify all weights and datasets. Raises FungiError at the end if a download or a check failed."""
    grid = settings.declared_or_last()
    problems = []
    for name, fetch in _fetches(settings, grid):
        try:
            for line in fetch():
                print(line, flush=True)
        except FungiError as error:
            problems.append(str(error))
            print(f"{name}: FAILED", flush=True)
    if problems:
        raise FungiError(f"{len(problems)} weights or datasets of the grid are not ready. " + " ".join(problems))


def _fetches(settings: PrefetchSettings, grid: "Grid") -> Iterator[tuple[str, Callable[[], Iterator[str]]]]:
    """Yield each name with the function that downloads and verifies it. The function yields the lines to print."""
    from fungi.data.base import resolve_dataset

    if settings.weights:
        for name in grid.backbones:
            yield name, partial(fetch_weights, name, resolve_backbone(name))
    if settings.data:
        for text in grid.datasets or ("digits",):
            yield text, partial(fetch_dataset, resolve_dataset(text, grid.data_dir), grid.data_dir)


def fetch_weights(text: str, spec: "BackboneSpec") -> Iterator[str]:
    """Load the published weights of a backbone, so that the cache contains them, and yield lines about the weights."""
    from fungi.backbones.loading import load_backbone

    if spec.pretrained is None:
        yield f"{spec.name}: there are no published weights; use --checkpoint or --random-init in its jobs"
        return
    backbone = load_backbone(text)
    yield f"{spec.name}: {backbone.weights_source}, hash {backbone.weights_hash[:12]}"
    if isinstance(backbone.input, TextInput):
        backbone.input.tokenizer.get()  # stores the tokenizer in its cache
        yield f"{spec.name}: tokenizer of {backbone.input.tokenizer.name}"


def fetch_dataset(spec: "DatasetSpec", data_dir: Path) -> Iterator[str]:
    """Download a dataset, if it can be downloaded, verify it, and yield a line per split.

    Raises FungiError for a dataset that does not exist in `data_dir` and can't be downloaded.
    """
    from fungi.data.preparation import verify_dataset

    if spec.download is not None:
        try:
            spec.download(data_dir)
        except FungiError:
            raise
        except (OSError, RuntimeError) as error:  # errors of torchvision and urllib
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise FungiError(
                f"dataset {spec.name!r} can't be downloaded ({reason}). Run this on a machine with a network, or copy "
                f"the data to {data_dir}."
            ) from None
    yield from verify_dataset(spec, data_dir)
