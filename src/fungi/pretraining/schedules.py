"""Values per step and per epoch (spec udi 5). Warm-ups that are longer than the run are cut to it."""

import numpy as np
from jaxtyping import Float


def cosine(
    first: float, last: float, steps: int, *, warmup: int = 0, start: float = 0.0
) -> Float[np.ndarray, " steps"]:
    """A linear rise from `start` to `first` in `warmup` steps, then a cosine from `first` to `last`."""
    warmup = min(warmup, steps)
    rise = np.linspace(start, first, warmup) if warmup > 1 else np.full(warmup, start)
    turn = np.arange(steps - warmup)
    fall = last + 0.5 * (first - last) * (1 + np.cos(np.pi * turn / max(len(turn), 1)))
    return np.concatenate([rise, fall])


def linear_then_constant(first: float, last: float, epochs: int, *, warmup: int) -> Float[np.ndarray, " epochs"]:
    """A line from `first` to `last` over the first `warmup` epochs, then `last`."""
    rise = np.linspace(first, last, warmup)[:epochs]
    return np.concatenate([rise, np.full(epochs - len(rise), last)])
