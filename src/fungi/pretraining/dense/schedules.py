"""Learning rates of the dense evaluations, step by step (spec udi 7.6)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def warmed_up(rates: Float[np.ndarray, " steps"], warmup: int, first: float) -> Float[np.ndarray, " steps"]:
    """Return the rates, the first `warmup` of them times a factor that grows in a line from `first` to 1."""
    factors = np.ones(len(rates))
    rise = first + (1 - first) * np.arange(warmup) / max(warmup, 1)
    factors[:warmup] = rise[: len(rates)]
    return rates * factors


def stepped(peak: float, epochs: int, steps: int, drops: Sequence[int]) -> Float[np.ndarray, " all_steps"]:
    """Return the peak rate, divided by 10 from each epoch of `drops` on; `steps` rates for each epoch."""
    drops_before = np.searchsorted(sorted(drops), np.repeat(np.arange(epochs), steps), side="right")
    return peak * 0.1**drops_before
