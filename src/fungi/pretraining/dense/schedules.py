"""Schedules of the learning rate of dense training, over steps (spec udi 7.6)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def warmed_up(rates: Float[np.ndarray, " steps"], warmup: int, first: float) -> Float[np.ndarray, " steps"]:
    """Return the rates with a linear warm-up: the factor of the first `warmup` rates grows from `first` to 1."""
    factors = np.ones(len(rates))
    rise = first + (1 - first) * np.arange(warmup) / max(warmup, 1)
    factors[:warmup] = rise[: len(rates)]
    return rates * factors


def stepped(peak: float, epochs: int, steps: int, drops: Sequence[int]) -> Float[np.ndarray, " all_steps"]:
    """Return the rate of each step: the peak rate, which is divided by 10 at the start of each epoch in `drops`.

    steps: number of steps per epoch.
    """
    drop_counts = np.searchsorted(sorted(drops), np.repeat(np.arange(epochs), steps), side="right")
    return peak * 0.1**drop_counts
