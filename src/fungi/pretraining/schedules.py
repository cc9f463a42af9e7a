"""Schedules over steps or epochs (spec udi 5, 7.6). A warm-up that is longer than the run ends with the run."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def cosine(first: float, last: float, steps: int, *, warmup: int = 0) -> Float[np.ndarray, " steps"]:
    """Return a linear rise from 0 to `first` in `warmup` steps, then a cosine curve from `first` to `last`."""
    warmup = min(warmup, steps)
    rise = np.linspace(0.0, first, warmup) if warmup > 1 else np.zeros(warmup)
    remaining = np.arange(steps - warmup)
    fall = last + 0.5 * (first - last) * (1 + np.cos(np.pi * remaining / max(len(remaining), 1)))
    return np.concatenate([rise, fall])


def linear_then_constant(first: float, last: float, epochs: int, *, warmup: int) -> Float[np.ndarray, " epochs"]:
    """Return a linear change from `first` to `last` over the first `warmup` epochs, then `last`."""
    rise = np.linspace(first, last, warmup)[:epochs]
    return np.concatenate([rise, np.full(epochs - len(rise), last)])


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
    epoch_of_step = np.repeat(np.arange(epochs), steps)
    drop_counts = np.searchsorted(sorted(drops), epoch_of_step, side="right")  # number of drops so far
    return peak * 0.1**drop_counts
