"""Getting datasets onto the disk: a step of its own, before any extraction. The scripts call these functions."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fungi.data.base import DATASETS, resolve_dataset
from fungi.data.verify import verify_dataset
from fungi.errors import FungiError
from fungi.runtime.command import run_command
from fungi.settings import required, setting


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """What the `prepare_*.py` scripts take."""

    data_dir: Path = setting(Path("data"), "where datasets live; the dataset gets a folder there")
    archives: Path = setting(Path(), "folder of the downloaded archives")


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """What `download_dataset.py` takes."""

    dataset: str = required("dataset to download; `fungi list datasets` names them")
    data_dir: Path = setting(Path("data"), "where datasets live; the dataset gets a folder there")


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """What `verify_dataset.py` takes."""

    dataset: str = required("dataset to verify, or NAME=folder:PATH, NAME=hf:PATH")
    data_dir: Path = setting(Path("data"), "where datasets live")
    every_item: bool = setting(False, "read every item, not only the first and the last of each split")


def run_script(*names: str, description: str | None) -> int:
    """What a `prepare_*.py` does for the datasets of these names; the exit status."""
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
