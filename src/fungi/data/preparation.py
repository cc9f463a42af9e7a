"""Download, unpack and verify datasets before the extraction of features. Scripts call these functions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fungi.data.base import DATASETS, DatasetSpec, Samples, resolve_dataset
from fungi.data.damage import damage_error, damaged_items
from fungi.errors import FungiError, counted
from fungi.settings import required, setting


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Flags of `prepare.py`."""

    dataset: tuple[str, ...] = required("datasets to unpack", topic="data")
    data_dir: Path = setting(Path("data"), "folder of datasets; each dataset has a subfolder", topic="data")
    archives: Path = setting(Path("downloads"), "folder of the downloaded archives")

    def __post_init__(self) -> None:
        for name in self.dataset:
            if DATASETS[name].prepare is None:
                raise FungiError(
                    f"dataset {name!r} has no archives to unpack. "
                    + ("Use scripts/download_dataset.py. " if DATASETS[name].download else "It comes with a package. ")
                    + f"Datasets with archives: {', '.join(_datasets_with_archives())}."
                )
        if not self.dataset:
            raise FungiError(f"--dataset names no dataset. Choose from: {', '.join(_datasets_with_archives())}.")


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """Flags of `download_dataset.py`."""

    dataset: str = required("dataset to download; `fungi list datasets` lists the names", topic="data")
    data_dir: Path = setting(Path("data"), "folder of datasets; the dataset has a subfolder", topic="data")


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """Flags of `verify_dataset.py`."""

    dataset: str = required("dataset to verify, or NAME=folder:PATH, NAME=hf:PATH", topic="data")
    data_dir: Path = setting(Path("data"), "folder of datasets", topic="data")
    every_item: bool = setting(False, "read every item, not only the first and the last item of each split")


def prepare(settings: PrepareSettings) -> None:
    """Unpack datasets from archives that a person downloaded, and verify them. Existing folders are not changed."""
    for name in settings.dataset:
        prepare_dataset = DATASETS[name].prepare
        assert prepare_dataset is not None
        prepare_dataset(settings.data_dir.expanduser(), settings.archives.expanduser())
        verify(VerifySettings(dataset=name, data_dir=settings.data_dir))


def sources() -> str:
    """Return a help text: the names of the datasets that have archives, and the commands that download them."""
    names_by_archives: dict[tuple[str, ...], list[str]] = {}
    for name in _datasets_with_archives():
        names_by_archives.setdefault(DATASETS[name].archives, []).append(name)
    paragraphs = [[f"{', '.join(names)}:", *archives] for archives, names in names_by_archives.items()]
    return "\n\n".join("\n    ".join(lines) for lines in paragraphs)


def _datasets_with_archives() -> list[str]:
    return [name for name in DATASETS if DATASETS[name].prepare]


def download(settings: DownloadSettings) -> None:
    """Download a dataset and verify it. Existing files are not downloaded again.

    Raises FungiError for a dataset that a program can't download.
    """
    spec = DATASETS[settings.dataset]
    if spec.download is None:
        downloadable = [name for name in DATASETS if DATASETS[name].download]
        raise FungiError(
            f"dataset {spec.name!r} can't be downloaded by a program. "
            + ("Use scripts/prepare.py. " if spec.prepare else f"It needs no download ({spec.notes}). ")
            + f"Datasets that can be downloaded: {', '.join(downloadable)}."
        )
    spec.download(settings.data_dir.expanduser())
    verify(VerifySettings(dataset=settings.dataset, data_dir=settings.data_dir))


def verify(settings: VerifySettings) -> None:
    """Verify a dataset and print one line per split. Raises the errors of `verify_dataset`."""
    data_dir = settings.data_dir.expanduser()
    for line in verify_dataset(resolve_dataset(settings.dataset, data_dir), data_dir, every_item=settings.every_item):
        print(line)


def verify_dataset(spec: DatasetSpec, data_dir: Path, *, every_item: bool = False) -> Iterator[str]:
    """Verify each split, and yield a line with its number of rows and classes and its fingerprint.

    every_item: read all items, not only the first and the last item of each split.
    Raises FungiError if the number of rows or classes differs from the published number, or if an item can't be read.
    """
    for split, expected in spec.sizes.items():
        samples = spec.open(data_dir, split)
        if expected is not None and len(samples) != expected:
            raise FungiError(
                f"dataset {spec.name!r}: split {split} has {counted(len(samples), 'row')}, but the published split has "
                f"{expected}. Files are missing, or there are too many. Unpack the dataset again into an empty folder."
            )
        classes = _class_phrase(spec, samples, split)
        rows = range(len(samples)) if every_item else dict.fromkeys((0, len(samples) - 1))
        if damaged := damaged_items(samples, rows, label=split):
            raise damage_error([damaged], len(samples))
        readable_items = f"{'every item' if every_item else 'first and last item'} readable"
        fingerprint = f"fingerprint {samples.fingerprint()[:12]}"
        yield f"{spec.name} {split}: {counted(len(samples), 'row')}{classes}, {readable_items}, {fingerprint}"


def _class_phrase(spec: DatasetSpec, samples: Samples, split: str) -> str:
    """Return a phrase with the number of classes; empty if the dataset has no known number of classes.

    Raises FungiError if the number differs from the published number.
    """
    if spec.masks is not None:
        return f" with masks of {counted(len(samples.class_names), 'class')}"
    if spec.classes is None:
        return ""
    classes = len(set(samples.targets.tolist()))
    if classes != spec.classes or int(samples.targets.max()) != spec.classes - 1:
        raise FungiError(
            f"dataset {spec.name!r}: split {split} has rows of {counted(classes, 'class')}, but the published split "
            f"has {spec.classes}. Unpack the dataset again into an empty folder."
        )
    return f" of {counted(classes, 'class')}"
