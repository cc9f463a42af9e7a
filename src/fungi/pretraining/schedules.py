"""Schedules over steps or epochs (spec udi 5). A warm-up that is longer than the run ends with the run."""

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
