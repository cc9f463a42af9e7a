"""Datasets of the user: class folders, saved datasets, images with masks.

The user writes the name and the path (`--dataset NAME=folder:PATH`). For `--dataset NAME` alone, the path is
`<data_dir>/NAME`. Results are written to folders called NAME, so NAME has to be a valid file name.
"""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from fungi.data.base import DatasetSpec, MaskRules, Samples
from fungi.data.formats.hf_disk import hub_copy, modality_of, open_saved, saved_classes, saved_splits
from fungi.data.formats.image_files import AS_DISPLAYED
from fungi.data.formats.image_folders import (
    class_folder_samples,
    class_folders,
    image_names,
    is_skipped,
    warn_of_ignored_files,
)
from fungi.data.formats.mask_files import class_values, mask_names, masked_samples
from fungi.data.hash_split import SPLITS, HashSplit
from fungi.data.split_names import recognised_splits, resolve_splits
from fungi.errors import FungiError, MissingFilesError, did_you_mean
from fungi.runtime.log import logger

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Pattern of names that are valid in paths of files."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""Pattern of the name of a dataset on the Hugging Face hub (`owner/name`)."""
_FORMS = (
    "NAME=folder:PATH (train/ and test/ of class folders), NAME=split:PATH (class folders), NAME=hf:PATH (library "
    "`datasets`) or NAME=masks:PATH (images and masks)"
)


def own_dataset(text: str, data_dir: Path | None, known_names: Iterable[str]) -> DatasetSpec:
    """Return the dataset that `text` describes (see `resolve_dataset`). Raises FungiError for an unknown dataset.

    known_names: names of the registered datasets.
    """
    name, equals, kind_and_path = text.partition("=")
    if not equals:
        return _spec_by_name(name, data_dir, known_names)
    kind, _, path = kind_and_path.partition(":")
    if kind not in _SPECS or not path:
        raise FungiError(f"--dataset {text!r} is not understood. Write {_FORMS}.")
    if name in known_names:
        raise FungiError(f"--dataset {text!r}: {name!r} is the name of a known dataset. Choose another name.")
    if not _PLAIN_NAME.fullmatch(name):
        raise FungiError(
            f"--dataset {text!r}: {name!r} can't be the name of a folder. Use letters, digits, '.', '_' and '-', and "
            "start with a letter or a digit."
        )
    root = Path(path).expanduser().absolute()
    if kind == "hf" and not root.is_dir() and _HUB_ID.fullmatch(path):
        folder = (data_dir or Path("data")).expanduser().absolute()
        root = hub_copy(path, folder / "hub" / path.replace("/", "--"))
    if not root.is_dir():
        raise MissingFilesError(f"--dataset {text!r}: there is no folder {root}. Correct the path.")
    return _SPECS[kind](name, root)


def _spec_by_name(name: str, data_dir: Path | None, known_names: Iterable[str]) -> DatasetSpec:
    """Return the dataset of the user in `<data_dir>/<name>`. Raises FungiError if there is no such dataset."""
    root = data_dir / name if data_dir and _PLAIN_NAME.fullmatch(name) else None
    if root and (root / "dataset_dict.json").is_file():
        return _saved_spec(name, root)
    if root and root.is_dir() and recognised_splits(_folders(root)):
        return _folder_spec(name, root)
    no_splits = f", and {root} has no train/ and test/" if root and root.is_dir() else ""
    if similar_names := did_you_mean(name, known_names):
        advice = f"{similar_names} Your own data need their path: --dataset {name}=folder:PATH, or {name}=masks:PATH "
        advice += "for images with masks."
    else:
        advice = f" Your own pictures need their path here: {_FORMS}. Known datasets: `fungi list datasets`."
    raise FungiError(f"unknown dataset {name!r}{no_splits}.{advice}")


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_skipped(entry.name))


def _log_treatment(name: str) -> None:
    logger.info(f"{name}: images are read as an image viewer shows them ({AS_DISPLAYED}).")


# An `open` function of a `DatasetSpec` takes the data directory. Datasets of the user are in `root`, so the `open`
# functions in this file do not use it.


def _open_folders(name: str, root: Path, split_folders: dict[str, str], data_dir: Path, split: str) -> Samples:
    """Return a split of class folders. All splits have the classes of train, so a label always means the same class.

    split_folders: split -> name of its folder, with `train` first.
    """
    classes = class_folders(root / next(iter(split_folders.values())))
    warn_of_ignored_files(root / split_folders[split])
    _log_treatment(name)
    return class_folder_samples(root, split_folders[split], classes, as_displayed=True)


def _open_saved(name: str, root: Path, split_folders: dict[str, str], data_dir: Path, split: str) -> Samples:
    """Return a split of a saved dataset. All splits have the same classes, so a label always means the same class.

    split_folders: split -> name of its folder, with `train` first.
    """
    classes = saved_classes(root, list(split_folders.values()))
    samples = open_saved(root, split_folders[split], class_names=classes, as_displayed=True)
    if samples.treatment:
        _log_treatment(name)
    return samples


def _folder_spec(name: str, root: Path) -> DatasetSpec:
    """Return the dataset for `NAME=folder:PATH`. Raises MissingFilesError if no split is recognised."""
    split_folders = resolve_splits(name, _folders(root))
    if not split_folders:
        raise MissingFilesError(
            f"dataset {name!r}: {root} has no folder train/, valid/ or test/. {_advice(name, root)}"
        )
    classes = len(class_folders(root / next(iter(split_folders.values()))))
    return DatasetSpec(
        name=name,
        title=f"images below {root}",
        classes=classes,
        sizes=dict.fromkeys(split_folders),
        open=partial(_open_folders, name, root, split_folders),
        is_in_paper=False,
    )


def _advice(name: str, root: Path) -> str:
    """Return a sentence that explains how to use a folder without splits."""
    if any(image_names(root / folder) for folder in class_folders(root)):
        return (
            f"If its folders are classes, write --dataset {name}=split:{root}; a fifth of each class is then for "
            "testing."
        )
    if image_names(root):
        return f"Its pictures have no classes; fungi similar --images {root} shows similar pictures."
    return "Put class folders there."


def _hash_split_spec(name: str, root: Path) -> DatasetSpec:
    """Return the dataset for `NAME=split:PATH`.

    Raises FungiError if the folder already has splits, and MissingFilesError if it has no class folders.
    """
    if splits := recognised_splits(_folders(root)):
        raise FungiError(
            f"dataset {name!r}: {root} already has splits ({', '.join(splits.values())}). Write --dataset "
            f"{name}=folder:{root}."
        )
    if not class_folders(root):
        raise MissingFilesError(f"dataset {name!r}: {root} has no class folders. {_advice(name, root)}")
    _log_treatment(name)
    return DatasetSpec(
        name=name,
        title=f"images below {root}, a fifth of each class for testing",
        classes=len(class_folders(root)),
        sizes=dict.fromkeys(SPLITS),
        open=HashSplit(root),
        is_in_paper=False,
    )


def _open_masked(name: str, root: Path, split_folders: dict[str, str], data_dir: Path, split: str) -> Samples:
    """Return a split of images and masks. If there is no `classes.txt`, each value in the masks is a class.

    split_folders: split -> name of its folder. The masks of all splits determine the classes.
    Raises MissingFilesError for a split without images.
    """
    folder = split_folders[split]
    class_names = _listed_classes(root)
    images = image_names(root / folder / "images")
    if not images:
        raise MissingFilesError(f"no image in {root / folder / 'images'}. Put the images of {split} there.")
    masks = [f"{folder}/{mask}" for mask in mask_names(root / folder, images)]
    values = class_values(root, tuple(split_folders.values()), len(class_names) or None)
    classes = class_names or [f"class {value}" for value in values]
    _log_treatment(name)
    paths = [f"{folder}/images/{image}" for image in images]
    return masked_samples(root, paths, masks, classes, class_values=values, as_displayed=True)


def _listed_classes(root: Path) -> list[str]:
    """Return the lines of `classes.txt`, which are class names; an empty list if the file does not exist."""
    path = root / "classes.txt"
    if not path.is_file():
        return []
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _masked_spec(name: str, root: Path) -> DatasetSpec:
    """Return the dataset for `NAME=masks:PATH`. Raises MissingFilesError if there is no train split."""
    split_folders = resolve_splits(name, _folders(root))
    if "train" not in split_folders:
        raise MissingFilesError(f"dataset {name!r}: {root} has no folder train/. Put images/ and masks/ there.")
    return DatasetSpec(
        name=name,
        title=f"images and masks below {root}",
        classes=len(_listed_classes(root) or class_values(root, tuple(split_folders.values()), None)),
        sizes=dict.fromkeys(split_folders),
        metric="mIoU",
        open=partial(_open_masked, name, root, split_folders),
        masks=MaskRules(),
        is_in_paper=False,
    )


def _saved_spec(name: str, root: Path) -> DatasetSpec:
    """Return the dataset for `NAME=hf:PATH`. A dataset of the hub is already downloaded to `root`.

    Raises MissingFilesError if no split is recognised.
    """
    split_folders = resolve_splits(name, saved_splits(root), accept_any_name=True)
    if not split_folders:
        raise MissingFilesError(
            f"dataset {name!r}: {root} has the splits {', '.join(saved_splits(root))}; expected train, valid or test."
        )
    return DatasetSpec(
        name=name,
        title=f"dataset saved in {root}",
        classes=None,
        sizes=dict.fromkeys(split_folders),
        modality=modality_of(root, next(iter(split_folders.values()))),
        open=partial(_open_saved, name, root, split_folders),
        is_in_paper=False,
    )


_SPECS = {"folder": _folder_spec, "split": _hash_split_spec, "hf": _saved_spec, "masks": _masked_spec}
"""KIND of `--dataset NAME=KIND:PATH` -> function (name, path) -> dataset."""
