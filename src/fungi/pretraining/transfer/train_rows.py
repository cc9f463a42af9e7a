"""A few of the train rows, for low-shot scores: a share of each class, or a list of file names (spec udi 7.4)."""

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Integer

from fungi.combine.few_shot import few_shot_rows
from fungi.errors import FungiError, MissingFilesError, counted


def share_of_rows(targets: Integer[np.ndarray, " n"], share: float, seed: int) -> Integer[np.ndarray, " s"]:
    """Return a share of the rows in ascending order, with equally many rows per class and at least one.

    Raises FungiError if a class has fewer rows.
    """
    counts = np.unique(targets, return_counts=True)[1]
    shots = max(1, round(share * len(targets) / len(counts)))
    if counts.min() < shots:
        raise FungiError(
            f"--train-share {share:g} takes {counted(shots, 'row')} of each class, and one has "
            f"{counts.min()}. Take fewer, or "
            "list the images with --train-list."
        )
    return few_shot_rows(targets, shots, seed)


def listed_rows(ids: Sequence[str], listing: Path) -> Integer[np.ndarray, " s"]:
    """Return the rows whose file names are in a list, one a line, with or without folders; in ascending order.

    Raises MissingFilesError where there is no list, FungiError for a name that no row has.
    """
    if not listing.is_file():
        raise MissingFilesError(f"--train-list: there is no file {listing}. SimCLR's lists are named 1percent.txt.")
    names = listing.read_text(encoding="utf-8").split()
    rows = {PurePath(name).name: row for row, name in enumerate(ids)} | {name: row for row, name in enumerate(ids)}
    unknown = [name for name in names if name not in rows]
    if unknown or not names:
        some = f"{len(unknown)} names that no train image has ({', '.join(unknown[:3])})" if names else "no names"
        raise FungiError(f"--train-list: {listing} has {some}. Use the list of this dataset.")
    return np.array(sorted({rows[name] for name in names}))
