"""Select the train rows of a few-shot evaluation (spec vision 9.4, text 5)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from fungi.combine.names import counted_rows, named_class
from fungi.errors import FungiError
from fungi.runtime.seeds import numpy_generator


def few_shot_rows(
    targets: Integer[np.ndarray, " n"], size: int | float, seed: int | None = None, class_names: Sequence[str] = ()
) -> Integer[np.ndarray, " selected"]:
    """Return the rows of `size` examples per class, ascending.

    size: an int is the number of rows per class. A float is the share of the rows of each class; at least one row is
        selected.
    seed: seed of a random draw. None: the first rows of each class in stored order (the published rule).
    class_names: names of the labels 0, 1, ..., for the message.
    Raises FungiError if a class has too few rows.
    """
    selected = []
    generator = None if seed is None else numpy_generator(seed, "few-shot")
    for label in np.unique(targets):
        rows = np.flatnonzero(targets == label)
        shots = max(1, round(size * len(rows))) if isinstance(size, float) else size
        if len(rows) < shots:
            raise FungiError(
                f"{named_class(int(label), class_names)} has {counted_rows(len(rows))}, but --shots needs {shots}."
                " Use fewer shots."
            )
        selected.append(rows[:shots] if generator is None else generator.choice(rows, shots, replace=False))
    return np.sort(np.concatenate(selected))


def stratified_rows(
    targets: Integer[np.ndarray, " n"], size: int | float, seed: int | None = None
) -> Integer[np.ndarray, " selected"]:
    """Return the rows of a stratified random draw, ascending.

    Classes keep their shares, so a rare class may be missing. This is the published rule for texts (spec text 6, T4).

    size: an int is the mean number of rows per class. A float is the share of all rows.
    seed: None means the published seed.
    Raises FungiError if scikit-learn cannot draw this number of rows.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    count = int(size * len(targets)) if isinstance(size, float) else size * len(np.unique(targets))
    splitter = StratifiedShuffleSplit(1, train_size=count, random_state=42 if seed is None else seed)
    try:
        selected, _ = next(splitter.split(np.zeros(len(targets)), targets))
    except ValueError as error:
        raise FungiError(
            f"a stratified draw of {count} of {len(targets)} train rows is not possible: {error} "
            "Use other --shots or --train-size, or --few-shot-sampling balanced."
        ) from None
    return np.sort(selected)
