"""Measurements of how extraction uses a device: busy time, kernels, memory, copies, workers. For `benchmark.py gpu`.

Some of these numbers exist only for a GPU. On a CPU, `not measured` is printed for them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.extraction import Setup, _extract
from fungi.data.base import Samples
from fungi.runtime.device import synchronize
from fungi.runtime.transfers import upload
from fungi.views.loading import batches, row_batches

NOT_MEASURED = "not measured (needs CUDA)"
ATTENTION = ("flash", "fmha", "attention", "sdpa", "softmax")
"""Parts of the names of attention kernels: flash, memory-efficient, cuDNN's and the one without fusion."""


@dataclass(frozen=True)
class JpegPictures:
    """Loader whose rows are pictures from a few JPEG files in memory."""

    files: Sequence[bytes]

    def __call__(self, row: int) -> Image.Image:
        """Decode and return the picture of a row. The files repeat."""
        return Image.open(BytesIO(self.files[row % len(self.files)])).convert("RGB")


def busy_share(intervals: Iterable[tuple[float, float]], elapsed: float) -> float:
    """Return the share of the elapsed time in which at least one kernel runs.

    intervals: start and end of each kernel, in the unit of `elapsed`.
    """
    busy, covered_until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        busy += max(0.0, end - max(start, covered_until))
        covered_until = max(covered_until, end)
    return busy / elapsed


def print_kernels(setup: Setup, count: int) -> None:
    """Print the busy share of the device, the `count` longest kernels and all attention kernels of one extraction."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    device = setup.engine.device
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    synchronize(device)
    with profile(activities=activities, acc_events=True) as profiled:
        start = perf_counter()
        _extract(setup)
        synchronize(device)
        elapsed = perf_counter() - start
    kernels = [event for event in profiled.events() or [] if event.device_type == DeviceType.CUDA]
    microseconds = [(event.time_range.start, event.time_range.end) for event in kernels]
    busy = f"{100 * busy_share(microseconds, elapsed * 1e6):.1f} % of the time" if on_gpu else NOT_MEASURED
    print(f"device busy: {busy}")
    column = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = sorted(profiled.key_averages(), key=lambda row: -getattr(row, column))
    total = sum(getattr(row, column) for row in rows) or 1
    attention = [row for row in rows if any(part in row.key.lower() for part in ATTENTION)]
    for title, chosen in (("longest kernels", rows[:count]), ("attention kernels", attention)):
        print(f"{title}:")
        for row in chosen:
            spent = getattr(row, column)
            print(f"  {100 * spent / total:5.1f} %  {spent / 1e3:9.2f} ms  {row.count:6d} x  {row.key[:100]}")


def print_peak_memory(setup: Setup) -> None:
    """Print the largest memory of the device during one extraction: used by tensors, and reserved by torch."""
    device, views = setup.engine.device, setup.engine.views_per_forward
    if device.type != "cuda":
        print(f"peak memory of the device at {views} views per forward: {NOT_MEASURED}")
        return
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _extract(setup)
    synchronize(device)
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    print(
        f"peak memory of the device at {views} views per forward: {allocated / 2**30:.2f} GiB "
        f"({before / 2**30:.2f} before), reserved {reserved / 2**30:.2f} GiB"
    )


def print_upload(device: torch.device, megabytes: int = 256) -> None:
    """Print the rate of copies from the host to the device, from pinned and from pageable memory."""
    if device.type != "cuda":
        print(f"upload: {NOT_MEASURED}")
        return
    pageable = torch.ones(megabytes * 2**20, dtype=torch.uint8)
    for label, values in (("pinned", pageable.pin_memory()), ("pageable", pageable)):
        upload(values, device)
        synchronize(device)
        start = perf_counter()
        upload(values, device)
        synchronize(device)
        print(f"upload of {label} memory: {megabytes / 1024 / (perf_counter() - start):.2f} GiB/s")


def print_workers(setup: Setup, files: Sequence[bytes], counts: Sequence[int], image_count: int) -> None:
    """Print two rates for each number of worker processes: preparation of views alone, and with extraction.

    files: contents of JPEG files. counts: numbers of worker processes. image_count: number of images in a measurement.
    """
    generators = [objective.views for objective in setup.objectives]
    generators += [setup.plain_view] if setup.plain_view.identity in setup.batches else []
    samples = Samples(np.zeros(image_count, np.uint32), [str(row) for row in range(image_count)], JpegPictures(files))
    for workers in counts:
        rates = []
        for with_extraction in (False, True):
            loader = batches(
                samples,
                generators,
                row_batches(0, image_count, size=setup.images),
                seed=42,
                num_workers=workers,
                pin_memory=setup.engine.device.type == "cuda",
            )
            rates.append(_images_per_second(setup, loader, image_count, with_extraction=with_extraction))
        print(f"{workers:3d} workers: views prepared {rates[0]:8.1f} images/s, extracted {rates[1]:8.1f} images/s")


def _images_per_second(setup: Setup, loader: Iterable[dict[str, Any]], images: int, *, with_extraction: bool) -> float:
    start = perf_counter()
    for batch in loader:
        if with_extraction:
            setup.batches.update(batch)
            _extract(setup)
    synchronize(setup.engine.device)
    return images / (perf_counter() - start)
