"""Measure the times of functions that run in turns, and compute the ratios of these times."""

import statistics
from collections.abc import Callable, Mapping
from time import perf_counter, process_time
from typing import Any

import torch

from fungi.runtime.device import synchronize


def in_turns(
    jobs: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device, *, elapsed: bool = False
) -> dict[str, list[float]]:
    """Return the seconds of every job in each round. A first round to warm up does not count.

    On a CPU these are seconds of processor time, which leaves out other processes. elapsed: whether to measure elapsed
    time also on a CPU. A rate, such as images per second, needs the elapsed time, because work may use several cores.
    """
    clock = process_time if device.type == "cpu" and not elapsed else perf_counter
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
    """Return the elapsed seconds of two jobs, one value per round."""
    seconds = in_turns({"first": first, "second": second}, rounds, device, elapsed=True)
    return seconds["first"], seconds["second"]


def ratio(seconds: list[float], base: list[float]) -> str:
    """Return the median and the range of the ratios of two jobs, one ratio per round.

    In a round the two jobs follow each other. The ratio of the two minima would compare different moments, and on a
    virtual machine the speed of a shared processor can change by a factor of two.
    """
    ratios = [value / base_value for value, base_value in zip(seconds, base, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
