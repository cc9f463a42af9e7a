"""Pieces of work timed in turns, and their ratios."""

import statistics
from collections.abc import Callable, Mapping
from time import perf_counter, process_time
from typing import Any

import torch

from fungi.runtime.device import synchronize


def in_turns(
    jobs: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device, *, wall: bool = False
) -> dict[str, list[float]]:
    """Seconds of every job in each round, after one that does not count.

    On a CPU those of the processor, which leaves out what others do on it; wall: by the clock, for rates.
    """
    clock = process_time if device.type == "cpu" and not wall else perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            start = clock()
            job()
            synchronize(device)
            if number:
                seconds[name].append(clock() - start)
    return seconds


def alternate(
    first: Callable[[], Any], second: Callable[[], Any], rounds: int, device: torch.device
) -> tuple[list[float], list[float]]:
    """Seconds of two jobs by the clock, round by round."""
    seconds = in_turns({"first": first, "second": second}, rounds, device, wall=True)
    return seconds["first"], seconds["second"]


def ratio(mine: list[float], base: list[float]) -> str:
    """Median of the rounds' ratios, and their range.

    Two jobs of a round follow each other. A ratio of two minima would compare moments at which a shared processor
    runs at different speeds: by a factor of two on virtual machines.
    """
    ratios = [one / other for one, other in zip(mine, base, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
