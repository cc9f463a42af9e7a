"""Download, unpack and verify datasets, before any extraction.

The scripts call these functions.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fungi.data.base import DATASETS, DatasetSpec, Samples, resolve_dataset
from fungi.data.damage import damage_error, damaged_items
from fungi.errors import FungiError
from fungi.runtime.command import run_command
from fungi.settings import required, setting


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Flags of the `prepare_*.py` scripts."""

    data_dir: Path = setting(Path("data"), "where datasets live; the dataset gets a folder there", topic="data")
    archives: Path = setting(Path(), "folder of the downloaded archives")


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """Flags of `download_dataset.py`."""

    dataset: str = required("dataset to download; `fungi list datasets` names them", topic="data")
    data_dir: Path = setting(Path("data"), "where datasets live; the dataset gets a folder there", topic="data")


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """Flags of `verify_dataset.py`."""

    dataset: str = required("dataset to verify, or NAME=folder:PATH, NAME=hf:PATH", topic="data")
    data_dir: Path = setting(Path("data"), "where datasets live", topic="data")
    every_item: bool = setting(False, "read every item, not only the first and the last of each split")


def run_script(*names: str, description: str | None) -> int:
    """Prepare the datasets of these names, as a `prepare_*.py` does; return the exit status."""
    program = Path(sys.argv[0]).name
    return run_command(PrepareSettings, partial(prepare, names=names), program=program, description=description or "")


def prepare(settings: PrepareSettings, names: Sequence[str]) -> None:
    """Unpack and arrange datasets from archives that a person downloaded, and verify them; safe to repeat."""
    for name in names:
        make = DATASETS[name].prepare
        assert make is not None
        make(settings.data_dir.expanduser(), settings.archives.expanduser())
        verify(VerifySettings(dataset=name, data_dir=settings.data_dir))


def download(settings: DownloadSettings) -> None:
    """Download a dataset and verify it; FungiError for one that no program can fetch. Safe to repeat."""
    spec = DATASETS[settings.dataset]
    if spec.download is None:
        fetchable = [name for name in DATASETS if DATASETS[name].download]
        raise FungiError(
            f"dataset {spec.name!r} can't be downloaded by a program. "
            + ("See the prepare script for it in scripts/. " if spec.prepare else f"It needs none: {spec.notes}. ")
            + f"Those that can: {', '.join(fetchable)}."
        )
    spec.download(settings.data_dir.expanduser())
    verify(VerifySettings(dataset=settings.dataset, data_dir=settings.data_dir))


def verify(settings: VerifySettings) -> None:
    """Print one line per split that is as published; FungiError for the first that is not."""
    data_dir = settings.data_dir.expanduser()
    for line in verify_dataset(resolve_dataset(settings.dataset, data_dir), data_dir, every_item=settings.every_item):
        print(line)


def verify_dataset(spec: DatasetSpec, data_dir: Path, *, every_item: bool = False) -> Iterator[str]:
    """Check each split, and yield one line about it.

    every_item: read all items instead of the first and the last.
    Raises FungiError for a split whose rows or classes are not as published, or with an item that can't be read.
    """
    for split, expected in spec.sizes.items():
        samples = spec.open(data_dir, split)
        if expected is not None and len(samples) != expected:
            raise FungiError(
                f"dataset {spec.name!r}: split {split} has {len(samples)} rows, published are {expected}. "
                "Files are missing or too many: unpack it again into an empty folder."
            )
        classes = _count_classes(spec, samples, split)
        rows = range(len(samples)) if every_item else dict.fromkeys((0, len(samples) - 1))
        if damaged := damaged_items(samples, rows, label=split):
            raise damage_error(damaged, len(samples))
        read = "every item" if every_item else "first and last item"
        facts = f"{len(samples)} rows{classes}, {read} readable, fingerprint {samples.fingerprint()[:12]}"
        yield f"{spec.name} {split}: {facts}"


def _count_classes(spec: DatasetSpec, samples: Samples, split: str) -> str:
    if spec.masks is not None:
        return f" with masks of {len(samples.class_names)} classes"
    if spec.classes is None:
        return ""
    classes = len(set(samples.targets.tolist()))
    if classes != spec.classes or int(samples.targets.max()) != spec.classes - 1:
        raise FungiError(
            f"dataset {spec.name!r}: split {split} has rows of {classes} classes, published are {spec.classes}. "
            "Unpack it again into an empty folder."
        )
    return f" of {classes} classes"
