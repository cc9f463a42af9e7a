"""Settings of `fungi import`."""

import re
from dataclasses import dataclass
from pathlib import Path

from fungi.errors import FungiError, counted
from fungi.settings import required, setting
from fungi.store.layout import EMBEDDINGS


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Flags of `fungi import`."""

    dataset: str = required("name of the dataset; other commands find the features by this name", topic="data")
    backbone: str = required("name of the model that computed the features", topic="model")
    files: tuple[str, ...] = setting((), "files with features, FILE or FILE:KEY, or one folder", first_word=True)
    targets: tuple[str, ...] = setting(
        (),
        "files with labels, FILE or FILE:KEY, one per file of features (default: the labels in the same files)",
    )
    split: str = setting("", "split of the rows (default: the split in the names of files and arrays)", topic="data")
    feature: str = setting(EMBEDDINGS, "name of the feature; other features are combined with embeddings")
    root: Path = setting(Path("features"), "folder of the feature files", aliases=("--output-path",), topic="files")
    overwrite: bool = setting(False, "replace existing feature files", topic="files")

    def __post_init__(self) -> None:
        if not self.files:
            raise FungiError("name the files to import: fungi import FILE --dataset NAME --backbone NAME.")
        for flag in ("dataset", "backbone", "feature", "split"):
            value = getattr(self, flag)
            if not re.fullmatch(r"[\w.+-]*", value) or (not value and flag != "split"):
                raise FungiError(f"--{flag} {value!r} is not a valid name. Use letters, digits, dots, +, - and _.")
        if self.targets and len(self.targets) != len(self.files):
            raise FungiError(
                f"there are {counted(len(self.targets), 'file')} of labels for {counted(len(self.files), 'file')} of"
                " features. Use one file in --targets for each file of features, in the same order."
            )
