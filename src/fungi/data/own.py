"""A user's own data under a name of the user's choice: class folders, or a `datasets` dataset saved to disk.

`--dataset NAME=folder:PATH`, `NAME=split:PATH` and `NAME=hf:PATH` say where it is; a bare `--dataset NAME` is looked
for as `<data_dir>/NAME`. The name becomes a folder below `--root`, so it has to be a plain file name.
"""

import re
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

from fungi.data.base import VOID, DatasetSpec, MaskRules, Samples
from fungi.data.drawn import SPLITS, DrawnSplit
from fungi.data.formats.hf_disk import modality_of, open_saved, saved_splits, string_classes
from fungi.data.formats.image_files import class_folder_samples, class_folders, image_names, name_unread
from fungi.data.formats.mask_files import mask_names, masked_samples, read_mask
from fungi.errors import FungiError, MissingFilesError, did_you_mean

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
"""Split -> the folders (or splits of a saved dataset) that may hold it."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FORMS = (
    "NAME=folder:PATH (train/ and test/ of class folders), NAME=split:PATH (class folders alone, of which a fifth is "
    "set aside for testing), NAME=hf:PATH (a DatasetDict saved to disk) or "
    "NAME=masks:PATH (train/ and test/ of images/ and masks/)"
)


def own_dataset(text: str, data_dir: Path | None, known: Iterable[str]) -> DatasetSpec:
    """The dataset that `text` describes (see `fungi.data.base.resolve_dataset`); FungiError where there is none."""
    name, equals, place = text.partition("=")
    if not equals:
        return _found_by_name(name, data_dir, known)
    kind, _, path = place.partition(":")
    if kind not in _SPECS or not path:
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
    return _SPECS[kind](name, root)


def _found_by_name(name: str, data_dir: Path | None, known: Iterable[str]) -> DatasetSpec:
    root = data_dir / name if data_dir and _PLAIN_NAME.fullmatch(name) else None
    if root and (root / "dataset_dict.json").is_file():
        return _saved_spec(name, root)
    if root and root.is_dir() and _present(entry.name for entry in root.iterdir() if entry.is_dir()):
        return _folder_spec(name, root)
    looked = f" ({root} is neither.)" if root else ""
    near = did_you_mean(name, known)
    own = "" if near else f" `fungi list datasets` names all. For your own data write {_FORMS}."
    raise FungiError(f"unknown dataset {name!r}.{near}{own}{looked}")


def _present(names: Iterable[str]) -> dict[str, str]:
    """Split -> the name under which it is there."""
    there = set(names)
    found = {split: next((name for name in known if name in there), "") for split, known in SPLIT_NAMES.items()}
    return {split: name for split, name in found.items() if name}


def _open_folders(root: Path, splits: dict[str, str], data_dir: Path, split: str) -> Samples:
    """A split of a folder of class folders. Classes are those of train, so that a label means one class."""
    classes = class_folders(root / next(iter(splits.values())))
    name_unread(root / splits[split])
    return class_folder_samples(root, splits[split], classes)


def _open_saved(root: Path, splits: dict[str, str], data_dir: Path, split: str) -> Samples:
    return open_saved(root, splits[split], class_names=string_classes(root, list(splits.values())))


def _folder_spec(name: str, root: Path) -> DatasetSpec:
    splits = _present(entry.name for entry in root.iterdir() if entry.is_dir())
    if not splits:
        raise MissingFilesError(f"dataset {name!r}: {root} has no folder train/, valid/ or test/. {_offer(name, root)}")
    classes = len(class_folders(root / next(iter(splits.values()))))
    return DatasetSpec(
        name=name,
        title=f"images below {root}",
        classes=classes,
        sizes=dict.fromkeys(splits),
        open=partial(_open_folders, root, splits),
        published=False,
    )


def _offer(name: str, root: Path) -> str:
    """What can be done with a folder as it is."""
    if any(image_names(root / inner) for inner in class_folders(root)):
        return (
            f"Are its folders the classes? Then write --dataset {name}=split:{root}, and a fifth of each is set aside "
            "for testing."
        )
    if image_names(root):
        return f"Its pictures have no classes: fungi similar --images {root} finds those that are alike."
    return "Put class folders there."


def _drawn_spec(name: str, root: Path) -> DatasetSpec:
    if there := _present(entry.name for entry in root.iterdir() if entry.is_dir()):
        raise FungiError(
            f"dataset {name!r}: {root} has a split already ({', '.join(there.values())}). Write --dataset "
            f"{name}=folder:{root}."
        )
    return DatasetSpec(
        name=name,
        title=f"images below {root}, a fifth of each class for testing",
        classes=len(class_folders(root)),
        sizes=dict.fromkeys(SPLITS),
        open=DrawnSplit(root),
        published=False,
    )


def _open_masked(root: Path, splits: dict[str, str], classes: list[str], data_dir: Path, split: str) -> Samples:
    folder = splits[split]
    images = image_names(root / folder / "images")
    if not images:
        raise MissingFilesError(f"no image in {root / folder / 'images'}. Put the images of {split} there.")
    masks = mask_names(root / folder, images)
    paths = [f"{folder}/images/{name}" for name in images]
    return masked_samples(root, paths, [f"{folder}/{name}" for name in masks], classes)


@cache
def _class_count(root: Path, folders: tuple[str, ...]) -> int:
    """One more than the largest class number of any mask: all of them are read, once per process."""
    largest = 0
    for folder in folders:
        for name in image_names(root / folder / "masks"):
            mask = read_mask(root / folder / "masks" / name, name)
            largest = max(largest, int(mask[mask != VOID].max(initial=0)))
    return largest + 1


def _masked_spec(name: str, root: Path) -> DatasetSpec:
    splits = _present(entry.name for entry in root.iterdir() if entry.is_dir())
    if "train" not in splits:
        raise MissingFilesError(f"dataset {name!r}: {root} has no folder train/. Put images/ and masks/ there.")
    listed = root / "classes.txt"
    if listed.is_file():
        classes = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        classes = [f"class {number}" for number in range(_class_count(root, tuple(splits.values())))]
    return DatasetSpec(
        name=name,
        title=f"images and masks below {root}",
        classes=len(classes),
        sizes=dict.fromkeys(splits),
        metric="mIoU",
        open=partial(_open_masked, root, splits, classes),
        masks=MaskRules(),
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
        open=partial(_open_saved, root, splits),
        published=False,
    )


_SPECS = {"folder": _folder_spec, "split": _drawn_spec, "hf": _saved_spec, "masks": _masked_spec}
