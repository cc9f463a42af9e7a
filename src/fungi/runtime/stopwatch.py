"""Where the time goes, by named step."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch

from fungi.runtime.device import synchronize


class Stopwatch:
    """Seconds by step. On a GPU, steps are only told apart when `precise`: that waits for the device at each."""

    def __init__(self, device: torch.device | str = "cpu", *, precise: bool = False) -> None:
        self._device = torch.device(device)
        self._precise = precise
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Add the time spent inside to a step."""
        start = perf_counter()
        try:
            yield
        finally:
            if self._precise:
                synchronize(self._device)
            self.seconds[step] = self.seconds.get(step, 0.0) + perf_counter() - start
