"""Find the folder of a dataset, and explain what to do if its files are missing or damaged."""

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
        Downloads and preparation write to the first of these folders.
    needs: required paths inside the folder.
    """

    dataset: str
    folders: tuple[str, ...]
    needs: tuple[str, ...]

    def home(self, data_dir: Path) -> Path:
        """Return the folder to which downloads and preparation write."""
        return data_dir / self.folders[0]

    def find(self, data_dir: Path, *more_needs: str) -> Path:
        """Return the first folder that contains all paths of `needs` and `more_needs`.

        Raises MissingFilesError with the missing paths.
        """
        data_dir = data_dir.expanduser().absolute()
        needs = (*self.needs, *more_needs)
        for folder in self.folders:
            if all((data_dir / folder / need).exists() for need in needs):
                return data_dir / folder
        raise MissingFilesError(self._error_message(data_dir, needs))

    def _error_message(self, data_dir: Path, needs: tuple[str, ...]) -> str:
        """Return the error message with the missing paths of the folder in which the fewest paths are missing."""
        roots = [data_dir / folder for folder in self.folders]
        missing_by_root = [[need for need in needs if not (root / need).exists()] for root in roots]
        fewest_missing = min(missing_by_root, key=len)
        searched = ", ".join(str(root) for root in roots)
        script = "prepare.py" if DATASETS[self.dataset].prepare else "download_dataset.py"
        return (
            f"dataset {self.dataset!r}: no {', '.join(fewest_missing)} (looked in {searched}). Name the folder with "
            f"--data-dir, or run: python scripts/{script} --dataset {self.dataset} --data-dir {data_dir} "
            "(its --help says what it needs)."
        )


@contextmanager
def reading(place: Place, root: Path) -> Iterator[None]:
    """Convert errors inside the `with` statement into a FungiError of one line. Damaged files cause such errors."""
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
    """Return the paths of files relative to `root`, with forward slashes. They serve as sample ids."""
    return [Path(path).relative_to(root).as_posix() for path in paths]
