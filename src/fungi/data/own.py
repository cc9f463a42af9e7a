"""Datasets of the user's own, under a name of the user's choice: class folders, saved datasets, images with masks.

`--dataset NAME=folder:PATH`, `NAME=split:PATH` and `NAME=hf:PATH` say where it is; a bare `--dataset NAME` is looked
for as `<data_dir>/NAME`. The name becomes a folder below `--root`, so it has to be a plain file name.
"""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from fungi.data.base import DatasetSpec, MaskRules, Samples
from fungi.data.drawn import SPLITS, DrawnSplit
from fungi.data.formats.hf_disk import hub_copy, modality_of, open_saved, saved_classes, saved_splits
from fungi.data.formats.image_files import AS_DISPLAYED
from fungi.data.formats.image_folders import (
    class_folder_samples,
    class_folders,
    image_names,
    is_skipped,
    report_left_out,
)
from fungi.data.formats.mask_files import class_numbers, mask_names, masked_samples
from fungi.data.split_names import recognised_splits, split_places
from fungi.errors import FungiError, MissingFilesError, did_you_mean
from fungi.runtime.log import logger

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""`owner/name`, as the Hugging Face hub calls its datasets."""
_FORMS = (
    "NAME=folder:PATH (train/ and test/ of class folders), NAME=split:PATH (class folders), NAME=hf:PATH (library "
    "`datasets`) or NAME=masks:PATH (images and masks)"
)


def own_dataset(text: str, data_dir: Path | None, known: Iterable[str]) -> DatasetSpec:
    """Return the dataset that `text` describes, as for `resolve_dataset`; FungiError where there is none."""
    name, equals, place = text.partition("=")
    if not equals:
        return _spec_by_name(name, data_dir, known)
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
    if kind == "hf" and not root.is_dir() and _HUB_ID.fullmatch(path):
        root = hub_copy(path, (data_dir or Path("data")).expanduser().absolute() / "hub" / path.replace("/", "--"))
    if not root.is_dir():
        raise MissingFilesError(f"--dataset {text!r}: there is no folder {root}. Correct the path.")
    return _SPECS[kind](name, root)


def _spec_by_name(name: str, data_dir: Path | None, known: Iterable[str]) -> DatasetSpec:
    root = data_dir / name if data_dir and _PLAIN_NAME.fullmatch(name) else None
    if root and (root / "dataset_dict.json").is_file():
        return _saved_spec(name, root)
    if root and root.is_dir() and recognised_splits(_folders(root)):
        return _folder_spec(name, root)
    looked = f", and {root} holds no train/ and test/" if root and root.is_dir() else ""
    near = did_you_mean(name, known)
    own = f" Your own pictures need their place each time they are read: {_FORMS}. Others: `fungi list datasets`."
    raise FungiError(f"unknown dataset {name!r}{looked}.{near or own}")


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_skipped(entry.name))


def _say_treatment(name: str) -> None:
    logger.info(f"{name}: pictures are read as a viewer shows them ({AS_DISPLAYED}).")


def _open_folders(name: str, root: Path, places: dict[str, str], data_dir: Path, split: str) -> Samples:
    """Return a split of a folder of class folders. Classes are those of train, so that a label means one class."""
    classes = class_folders(root / next(iter(places.values())))
    report_left_out(root / places[split])
    _say_treatment(name)
    return class_folder_samples(root, places[split], classes, as_displayed=True)


def _open_saved(name: str, root: Path, places: dict[str, str], data_dir: Path, split: str) -> Samples:
    classes = saved_classes(root, list(places.values()))
    samples = open_saved(root, places[split], class_names=classes, as_displayed=True)
    if samples.treatment:
        _say_treatment(name)
    return samples


def _folder_spec(name: str, root: Path) -> DatasetSpec:
    places = split_places(name, _folders(root))
    if not places:
        raise MissingFilesError(f"dataset {name!r}: {root} has no folder train/, valid/ or test/. {_offer(name, root)}")
    classes = len(class_folders(root / next(iter(places.values()))))
    return DatasetSpec(
        name=name,
        title=f"images below {root}",
        classes=classes,
        sizes=dict.fromkeys(places),
        open=partial(_open_folders, name, root, places),
        published=False,
    )


def _offer(name: str, root: Path) -> str:
    """Return a sentence on what can be done with a folder as it is."""
    if any(image_names(root / inner) for inner in class_folders(root)):
        return (
            f"Are its folders the classes? Then write --dataset {name}=split:{root}, and a fifth of each is set aside "
            "for testing."
        )
    if image_names(root):
        return f"Its pictures have no classes: fungi similar --images {root} finds those that are alike."
    return "Put class folders there."


def _drawn_spec(name: str, root: Path) -> DatasetSpec:
    if there := recognised_splits(_folders(root)):
        raise FungiError(
            f"dataset {name!r}: {root} has a split already ({', '.join(there.values())}). Write --dataset "
            f"{name}=folder:{root}."
        )
    if not class_folders(root):
        raise MissingFilesError(f"dataset {name!r}: {root} has no class folders. {_offer(name, root)}")
    _say_treatment(name)
    return DatasetSpec(
        name=name,
        title=f"images below {root}, a fifth of each class for testing",
        classes=len(class_folders(root)),
        sizes=dict.fromkeys(SPLITS),
        open=DrawnSplit(root),
        published=False,
    )


def _open_masked(name: str, root: Path, places: dict[str, str], data_dir: Path, split: str) -> Samples:
    folder, named = places[split], _listed_classes(root)
    images = image_names(root / folder / "images")
    if not images:
        raise MissingFilesError(f"no image in {root / folder / 'images'}. Put the images of {split} there.")
    masks = [f"{folder}/{mask}" for mask in mask_names(root / folder, images)]
    numbers = class_numbers(root, tuple(places.values()), len(named) or None)
    classes = named or [f"class {value}" for value in numbers]
    _say_treatment(name)
    paths = [f"{folder}/images/{image}" for image in images]
    return masked_samples(root, paths, masks, classes, numbers=numbers, as_displayed=True)


def _listed_classes(root: Path) -> list[str]:
    """Return the names in `classes.txt`, one per line; none where there is no such file."""
    listed = root / "classes.txt"
    if not listed.is_file():
        return []
    return [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]


def _masked_spec(name: str, root: Path) -> DatasetSpec:
    places = split_places(name, _folders(root))
    if "train" not in places:
        raise MissingFilesError(f"dataset {name!r}: {root} has no folder train/. Put images/ and masks/ there.")
    return DatasetSpec(
        name=name,
        title=f"images and masks below {root}",
        classes=len(_listed_classes(root) or class_numbers(root, tuple(places.values()), None)),
        sizes=dict.fromkeys(places),
        metric="mIoU",
        open=partial(_open_masked, name, root, places),
        masks=MaskRules(),
        published=False,
    )


def _saved_spec(name: str, root: Path) -> DatasetSpec:
    places = split_places(name, saved_splits(root), all_are_splits=True)
    if not places:
        raise MissingFilesError(
            f"dataset {name!r}: {root} has the splits {', '.join(saved_splits(root))}; expected train, valid or test."
        )
    return DatasetSpec(
        name=name,
        title=f"dataset saved in {root}",
        classes=None,
        sizes=dict.fromkeys(places),
        modality=modality_of(root, next(iter(places.values()))),
        open=partial(_open_saved, name, root, places),
        published=False,
    )


_SPECS = {"folder": _folder_spec, "split": _drawn_spec, "hf": _saved_spec, "masks": _masked_spec}
