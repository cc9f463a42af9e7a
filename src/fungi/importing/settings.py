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
        "files with labels, FILE or FILE:KEY, one per file of features; default: labels in the same files",
    )
    split: str = setting("", "split of the rows; if absent, the names of files and arrays decide", topic="data")
    feature: str = setting(EMBEDDINGS, "name of the feature; other names than embeddings join them in evaluations")
    root: Path = setting(Path("features"), "folder of the feature files", aliases=("--output-path",), topic="files")
    overwrite: bool = setting(False, "replace existing feature files", topic="files")

    def __post_init__(self) -> None:
        if not self.files:
            raise FungiError("name the files to import: fungi import FILE --dataset NAME --backbone NAME.")
        for flag in ("dataset", "backbone", "feature", "split"):
            value = getattr(self, flag)
            if not re.fullmatch(r"[\w.+-]*", value) or (not value and flag != "split"):
                raise FungiError(f"--{flag} {value!r} is no plain name. Use letters, digits, dots, - and _.")
        if self.targets and len(self.targets) != len(self.files):
            raise FungiError(
                f"{counted(len(self.targets), 'file')} of labels for "
                f"{counted(len(self.files), 'file')} of features. Give one --targets for"
                " each, in the same order."
            )
