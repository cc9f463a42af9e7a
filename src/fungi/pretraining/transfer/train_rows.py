"""Select a part of the train rows for low-shot scores: a share of each class, or a list of names (spec udi 7.4)."""

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Integer

from fungi.combine.few_shot import few_shot_rows
from fungi.errors import FungiError, MissingFilesError, counted


def share_of_rows(targets: Integer[np.ndarray, " n"], share: float, seed: int) -> Integer[np.ndarray, " s"]:
    """Return a share of the rows in ascending order, with the same number of rows (at least 1) from each class.

    Raises FungiError if a class has too few rows.
    """
    _, counts = np.unique(targets, return_counts=True)
    shots = max(1, round(share * len(targets) / len(counts)))
    if counts.min() < shots:
        raise FungiError(
            f"--train-share {share:g} needs {counted(shots, 'row')} of each class, but a class has only "
            f"{counts.min()}. Use a smaller share, or list the images with --train-list."
        )
    return few_shot_rows(targets, shots, seed)


def listed_rows(ids: Sequence[str], listing: Path) -> Integer[np.ndarray, " s"]:
    """Return the rows of the images whose names are in a file, in ascending order.

    listing: file with one image name per line; a name may include the folder of the image. Raises MissingFilesError if
    the file is missing, FungiError if a name belongs to no row.
    """
    if not listing.is_file():
        raise MissingFilesError(f"--train-list: there is no file {listing}. SimCLR's lists are named 1percent.txt.")
    names = listing.read_text(encoding="utf-8").split()
    row_by_name = {PurePath(name).name: row for row, name in enumerate(ids)}
    row_by_name |= {name: row for row, name in enumerate(ids)}
    unknown = [name for name in names if name not in row_by_name]
    if unknown or not names:
        problem = f"{len(unknown)} names that no train image has ({', '.join(unknown[:3])})" if names else "no names"
        raise FungiError(f"--train-list: {listing} has {problem}. Use the list of this dataset.")
    return np.array(sorted({row_by_name[name] for name in names}))
