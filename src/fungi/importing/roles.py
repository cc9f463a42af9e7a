"""Find the role (features, labels, sample ids or class names) and the split of each array in a file.

Role and split follow from the names of files and arrays. Examples: `features_train.pt` and `targets_train.pt` of
CLIP_benchmark, `trainfeat.pth` and `trainlabels.pth` of DINO's kNN evaluation, `x_train` and `y_train` in one .npz.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fungi.errors import FungiError
from fungi.store.foreign import load_array, shapes_of

Role = Literal["features", "labels", "ids", "classes"]
SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "val": "valid", "test": "test"}
"""Text in a name -> split. `validation` comes before `valid` and `val`, because the first text that matches is used."""
ENDINGS = (".npy", ".npz", ".pt", ".pth", ".h5", ".hdf5")
_SPLIT = re.compile("|".join(SPLITS))
_ROLES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("classes", re.compile(r"class_?names|classes$|categories")),
    ("ids", re.compile(r"(^|_|\b)(ids?|paths?|file_?names?|sample_ids|keys)$")),
    ("labels", re.compile(r"label|target|(^|_)y(_|$)|gt$")),
    ("features", re.compile(r"feat|embed|(^|_)x(_|$)|latent|activation")),
)
"""Roles and the patterns of their names. The first pattern that matches is used."""


@dataclass(frozen=True)
class NamedArray:
    """An array of a file, with its role and split.

    key: name of the array in the file; empty if the file is the array. split: empty if the names contain no split.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    role: Role
    split: str

    def __str__(self) -> str:
        return f"{self.path}:{self.key}" if self.key else str(self.path)


def named_arrays(path: Path, key: str | None, split: str) -> list[NamedArray]:
    """Return the arrays of a file that have a role.

    key: name of the array with the features; if None, names decide. split: split of all arrays; if empty, names decide.
    """
    arrays = []
    stem = path.stem.lower()
    for name, shape in shapes_of(path).items():
        role: Role | None = "features" if name == key else _role(name.lower() or stem, stem, shape)
        is_other_feature = key is not None and role == "features" and name != key
        if role is not None and not is_other_feature:
            split_of_array = split or _split(name.lower()) or _split(stem)
            arrays.append(NamedArray(path, name, shape, role, split_of_array))
    return arrays


def files_in(path: Path) -> list[Path]:
    """Return the array files of a folder, or the file itself. Raises FungiError for a folder without array files."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in ENDINGS)
    if not files:
        raise FungiError(f"{path} does not contain files of features ({', '.join(ENDINGS)}).")
    return files


def by_split(arrays: Sequence[NamedArray]) -> dict[str, dict[Role, NamedArray]]:
    """Return split -> role -> array, for the splits with features. If these are train and valid, valid becomes test.

    Arrays without a split, for example class names, are added to every split that has no such array.
    Raises FungiError if two arrays have the same role and split, if the split of features is unknown, or if there are
    no features.
    """
    splits: dict[str, dict[Role, NamedArray]] = {}
    for array in arrays:
        if array.role == "features" and not array.split:
            raise FungiError(
                f"the name of {array} does not contain the split of the features. Add --split train or --split test."
            )
        splits.setdefault(array.split, {})
        other = splits[array.split].get(array.role)
        if other is not None:
            raise FungiError(
                f"{other} and {array} both look like the {array.role} of split {array.split or 'unknown'}. Name the"
                " features as FILE:KEY and the labels with --targets FILE:KEY."
            )
        splits[array.split][array.role] = array
    without_split = splits.pop("", {})
    complete_splits = {split: without_split | roles for split, roles in splits.items() if "features" in roles}
    if not complete_splits:
        raise FungiError(f"there are no features [n d] in {_names_and_shapes(arrays)}. Name the array as FILE:KEY.")
    if set(complete_splits) == {"train", "valid"}:
        complete_splits["test"] = complete_splits.pop("valid")
    return complete_splits


def texts_of(array: NamedArray) -> list[str]:
    """Return the sample ids or class names of an array as strings."""
    return [value.decode() if isinstance(value, bytes) else str(value) for value in load_array(array.path, array.key)]


def _role(name: str, stem: str, shape: tuple[int, ...]) -> Role | None:
    """Return the role of an array, by its name or by the name of its file; None for an array without a role.

    Features have two axes, arrays of other roles do not. A matrix whose names do not show a role counts as features.
    """
    is_matrix = len(shape) == 2
    for text in (name.replace("/", "_"), stem):
        for role, pattern in _ROLES:
            if pattern.search(text):
                return role if is_matrix == (role == "features") else None
    return "features" if is_matrix else None


def _split(name: str) -> str:
    """Return the split that is a word of a name, or otherwise a part of it; empty if there is none.

    A word consists of letters: `pretrain_test` is of the test split, and `trainfeat` of the train split.
    """
    words = re.split(r"[^a-z]+", name)
    match = _SPLIT.search(name)
    text = next((word for word in words if word in SPLITS), match.group() if match else "")
    return SPLITS.get(text, "")


def _names_and_shapes(arrays: Iterable[NamedArray]) -> str:
    return ", ".join(f"{array} {list(array.shape)}" for array in arrays) or "these files"
