"""A user's own data under a name of the user's choice: class folders, or a `datasets` dataset saved to disk.

`--dataset NAME=folder:PATH` and `--dataset NAME=hf:PATH` say where it is; a bare `--dataset NAME` is looked for as
`<data_dir>/NAME`. The name becomes a folder below `--root`, so it has to be a plain file name.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fungi.data.base import DatasetSpec, Samples
from fungi.data.formats.hf_disk import modality_of, open_saved, saved_splits, string_classes
from fungi.data.formats.image_files import class_folder_samples, class_folders
from fungi.errors import FungiError, MissingFilesError, unknown_name

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
"""Split -> the folders (or splits of a saved dataset) that may hold it."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FORMS = "NAME=folder:PATH (train/ and test/ of class folders) or NAME=hf:PATH (a DatasetDict saved to disk)"


def own_dataset(text: str, data_dir: Path | None, *, known: Iterable[str]) -> DatasetSpec:
    """The dataset that `text` describes (see `fungi.data.base.resolve_dataset`); FungiError where there is none."""
    name, equals, place = text.partition("=")
    if not equals:
        return _found_by_name(name, data_dir, known)
    kind, _, path = place.partition(":")
    if kind not in ("folder", "hf") or not path:
        raise FungiError(f"--dataset {text!r} is not understood. Write {_FORMS}.")
    if name in known:
        raise FungiError(f"--dataset {text!r}: {name!r} is the name of a known dataset. Choose another name.")
    if not _PLAIN_NAME.fullmatch(name):
        raise FungiError(
            f"--dataset {text!r}: {name!r} can't be the name of a folder. Use letters, digits, '.', '_' and '-', "
            "beginning with a letter or a digit."
        )
    root = Path(path).expanduser().absolute()
    if not root.is_dir():
        raise MissingFilesError(f"--dataset {text!r}: there is no folder {root}. Correct the path.")
    return _folder_spec(name, root) if kind == "folder" else _saved_spec(name, root)


def _found_by_name(name: str, data_dir: Path | None, known: Iterable[str]) -> DatasetSpec:
    root = data_dir / name if data_dir and _PLAIN_NAME.fullmatch(name) else None
    if root and (root / "dataset_dict.json").is_file():
        return _saved_spec(name, root)
    if root and root.is_dir() and _present(entry.name for entry in root.iterdir() if entry.is_dir()):
        return _folder_spec(name, root)
    looked = f" ({root} is neither.)" if root else ""
    raise FungiError(f"{unknown_name('dataset', name, known)} For your own data write {_FORMS}.{looked}")


def _present(names: Iterable[str]) -> dict[str, str]:
    """Split -> the name under which it is there."""
    there = set(names)
    found = {split: next((name for name in known if name in there), "") for split, known in SPLIT_NAMES.items()}
    return {split: name for split, name in found.items() if name}


@dataclass(frozen=True)
class _Folders:
    """Opens the splits of a folder of class folders. Classes are those of train, so that a label means one class."""

    root: Path
    splits: dict[str, str] = field(hash=False)

    def __call__(self, data_dir: Path, split: str) -> Samples:
        classes = class_folders(self.root / next(iter(self.splits.values())))
        return class_folder_samples(self.root, self.splits[split], classes)


@dataclass(frozen=True)
class _Saved:
    """Opens the splits of a saved `DatasetDict`."""

    root: Path
    splits: dict[str, str] = field(hash=False)

    def __call__(self, data_dir: Path, split: str) -> Samples:
        classes = string_classes(self.root, list(self.splits.values()))
        return open_saved(self.root, self.splits[split], class_names=classes)


def _folder_spec(name: str, root: Path) -> DatasetSpec:
    splits = _present(entry.name for entry in root.iterdir() if entry.is_dir())
    if not splits:
        raise MissingFilesError(
            f"dataset {name!r}: {root} has no folder train/, valid/ or test/. Put class folders there."
        )
    classes = len(class_folders(root / next(iter(splits.values()))))
    return DatasetSpec(
        name=name,
        title=f"images below {root}",
        classes=classes,
        sizes=dict.fromkeys(splits),
        open=_Folders(root, splits),
        published=False,
    )


def _saved_spec(name: str, root: Path) -> DatasetSpec:
    splits = _present(saved_splits(root))
    if not splits:
        raise MissingFilesError(
            f"dataset {name!r}: {root} has the splits {', '.join(saved_splits(root))}; expected train, valid or test."
        )
    return DatasetSpec(
        name=name,
        title=f"dataset saved in {root}",
        classes=None,
        sizes=dict.fromkeys(splits),
        modality=modality_of(root, next(iter(splits.values()))),
        open=_Saved(root, splits),
        published=False,
    )
