"""`fungi prefetch`: on a node with a network, fetch what the jobs of the grid need, and verify it."""

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

DESCRIPTION = """Fetch the weights and datasets of the grid into their caches and the data folder, and verify them:
weights load strictly, splits have the published rows and classes. Run it on a login node; jobs then need no network.

Caches: $HF_HOME and $TORCH_HOME, which the jobs must see too."""


@dataclass(frozen=True, kw_only=True)
class PrefetchSettings(GridSettings):
    """What to fetch."""

    weights: bool = setting(True, "fetch the weights of the backbones")
    data: bool = setting(True, "fetch the datasets")


def run(settings: PrefetchSettings) -> None:
    """Fetch all that can be fetched; then fail if anything could not."""
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
        raise FungiError(f"{len(problems)} of the grid's weights and datasets are not ready. " + " ".join(problems))


def _fetches(settings: PrefetchSettings, grid: "Grid") -> Iterator[tuple[str, Callable[[], Iterator[str]]]]:
    from fungi.data.base import resolve_dataset

    if settings.weights:
        for name in grid.backbones:
            yield name, partial(fetch_weights, name, resolve_backbone(name))
    if settings.data:
        for text in grid.datasets or ("digits",):
            yield text, partial(fetch_dataset, resolve_dataset(text, grid.data_dir), grid.data_dir)


def fetch_weights(text: str, spec: "BackboneSpec") -> Iterator[str]:
    """Load a backbone's published weights, which brings them into their cache; a line about them."""
    from fungi.backbones.loading import load_backbone

    if spec.pretrained is None:
        yield f"{spec.name}: has no published weights; give its jobs --checkpoint or --random-init"
        return
    backbone = load_backbone(text)
    yield f"{spec.name}: {backbone.weights_source}, hash {backbone.weights_hash[:12]}"
    if isinstance(backbone.input, TextInput):
        backbone.input.tokenizer.get()  # through its cache, too
        yield f"{spec.name}: tokenizer of {backbone.input.tokenizer.name}"


def fetch_dataset(spec: "DatasetSpec", data_dir: Path) -> Iterator[str]:
    """Download a dataset that a program can fetch, and verify it; one line per split.

    Raises FungiError for one that can't be fetched and is not there.
    """
    from fungi.data.preparation import verify_dataset

    if spec.download is not None:
        try:
            spec.download(data_dir)
        except FungiError:
            raise
        except (OSError, RuntimeError) as error:  # what torchvision's and urllib's downloads raise
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise FungiError(
                f"dataset {spec.name!r} can't be downloaded ({reason}). Run this where there is a network, or copy "
                f"the data to {data_dir}."
            ) from None
    yield from verify_dataset(spec, data_dir)
