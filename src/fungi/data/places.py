"""Folders of datasets, and the error for a missing dataset."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fungi.data.base import DATASETS
from fungi.errors import FungiError, MissingFilesError


@dataclass(frozen=True, kw_only=True)
class Place:
    """The possible folders of a dataset.

    folders: paths relative to the data directory, in the order of the search; "" is the data directory itself.
        Downloads and preparation write to the first.
    needs: required paths inside the folder.
    """

    dataset: str
    folders: tuple[str, ...]
    needs: tuple[str, ...]

    def home(self, data_dir: Path) -> Path:
        """Return the folder to which downloads and preparation write."""
        return data_dir / self.folders[0]

    def find(self, data_dir: Path, *also: str) -> Path:
        """Return the folder that contains all paths of `needs` and `also`.

        Raises MissingFilesError that names the missing paths.
        """
        data_dir = data_dir.expanduser().absolute()
        needs = (*self.needs, *also)
        for folder in self.folders:
            if all((data_dir / folder / need).exists() for need in needs):
                return data_dir / folder
        raise MissingFilesError(self._report(data_dir, needs))

    def _report(self, data_dir: Path, needs: tuple[str, ...]) -> str:
        roots = [data_dir / folder for folder in self.folders]
        missing = min(([need for need in needs if not (root / need).exists()] for root in roots), key=len)
        searched = ", ".join(str(root) for root in roots)
        script = "prepare.py" if DATASETS[self.dataset].prepare else "download_dataset.py"
        return (
            f"dataset {self.dataset!r}: no {', '.join(missing)} (looked in {searched}). Name the folder with "
            f"--data-dir, or run: python scripts/{script} --dataset {self.dataset} --data-dir {data_dir} "
            "(its --help says what it needs)."
        )


@contextmanager
def reading(place: Place, root: Path) -> Iterator[None]:
    """Convert errors of parsers inside the block, which damaged files cause, into a FungiError of one line."""
    try:
        yield
    except FungiError:
        raise
    except FileNotFoundError as error:
        raise MissingFilesError(
            f"dataset {place.dataset!r}: there is no {error.filename or root}. Unpack or download the dataset again."
        ) from None
    except Exception as error:  # damaged archives and tables make readers raise nearly anything
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise FungiError(
            f"dataset {place.dataset!r}: the files in {root} are damaged or incomplete ({type(error).__name__}: "
            f"{cause}). Move this folder away, and unpack or download the dataset again."
        ) from error


def relative(root: Path, paths: list[Any]) -> list[str]:
    """Return the paths of files below `root` as sample ids: relative, with forward slashes."""
    return [Path(path).relative_to(root).as_posix() for path in paths]
