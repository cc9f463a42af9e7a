"""Which train rows a few-shot evaluation sees (spec vision 9.4, text 5)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from fungi.combine.names import counted_rows, named_class
from fungi.errors import FungiError
from fungi.runtime.seeds import numpy_generator


def few_shot_rows(
    targets: Integer[np.ndarray, " n"], size: int | float, seed: int | None = None, class_names: Sequence[str] = ()
) -> Integer[np.ndarray, " s"]:
    """Return the rows of `size` examples per class, or of that share of each class, at least one; ascending.

    Without a seed the first ones of each class in stored order (the published rule); with one, a random balanced draw.
    FungiError where a class has fewer; class_names: of the labels 0, 1, ..., for its text.
    """
    chosen = []
    generator = None if seed is None else numpy_generator(seed, "few-shot")
    for label in np.unique(targets):
        rows = np.flatnonzero(targets == label)
        shots = max(1, round(size * len(rows))) if isinstance(size, float) else size
        if len(rows) < shots:
            raise FungiError(
                f"{named_class(int(label), class_names)} has {counted_rows(len(rows))}, fewer than the {shots} shots of"
                " --shots. Use fewer."
            )
        chosen.append(rows[:shots] if generator is None else generator.choice(rows, shots, replace=False))
    return np.sort(np.concatenate(chosen))


def stratified_rows(
    targets: Integer[np.ndarray, " n"], size: int | float, seed: int | None = None
) -> Integer[np.ndarray, " s"]:
    """Return as many rows as `size` per class would be, or that share of all, classes keeping their shares; ascending.

    The published rule for texts (deviation T4): a rare class may get no row at all. Without a seed, the published one.
    FungiError where scikit-learn can't draw so few, or so many.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    count = int(size * len(targets)) if isinstance(size, float) else size * len(np.unique(targets))
    splitter = StratifiedShuffleSplit(1, train_size=count, random_state=42 if seed is None else seed)
    try:
        chosen, _ = next(splitter.split(np.zeros(len(targets)), targets))
    except ValueError as error:
        raise FungiError(
            f"{count} of {len(targets)} train rows can't be drawn with the shares of the classes kept ({error}) "
            "Use other --shots or --train-size, or --few-shot-sampling balanced."
        ) from None
    return np.sort(chosen)
