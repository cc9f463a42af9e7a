"""Which train rows a few-shot evaluation sees (spec vision 9.4)."""

import numpy as np
from jaxtyping import Integer

from fungi.errors import FungiError
from fungi.runtime.seeds import numpy_generator


def few_shot_rows(targets: Integer[np.ndarray, " n"], shots: int, seed: int | None = None) -> Integer[np.ndarray, " s"]:
    """Rows of `shots` examples per class, ascending.

    Without a seed the first ones of each class in stored order (the published rule); with one, a random balanced draw.
    FungiError where a class has fewer.
    """
    chosen = []
    generator = None if seed is None else numpy_generator(seed, "few-shot")
    for label in np.unique(targets):
        rows = np.flatnonzero(targets == label)
        if len(rows) < shots:
            raise FungiError(
                f"class {label} has {len(rows)} train rows, fewer than the {shots} shots asked for. Use fewer --shots."
            )
        chosen.append(rows[:shots] if generator is None else generator.choice(rows, shots, replace=False))
    return np.sort(np.concatenate(chosen))
