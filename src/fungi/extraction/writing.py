"""Blocks on their way from the device to the disk, while the device computes the next ones.

The copy to the host is queued by the computing thread right behind the block's own work, so that the writing thread
waits for that block alone and never for what was queued since.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.extraction.work import Work
from fungi.gradients import core
from fungi.store.blocks import Span
from fungi.store.reading import TARGETS

WAITING_BLOCKS = 4
"""Blocks that may wait for the disk before the computation waits, too; each holds a few megabytes."""


@runtime_checkable
class Event(Protocol):
    """A point in the queue of a device, such as `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait until the device is there."""


@dataclass(frozen=True)
class HostBlock:
    """Rows of a block in the memory of the host; complete once `arrived` has happened."""

    arrays: core.Computed
    arrived: Event | None

    def wait(self) -> core.Computed:
        """Wait for the copy, and return the arrays."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.arrays


def start_copy(parts: Sequence[Mapping[str, Mapping[str, Tensor]]], device: torch.device) -> HostBlock:
    """Join the batches of a block, each `{feature: {array: [b p]}}`, and queue the copy to the host, in float32.

    Batches differ in b. Returns without waiting for the copy.
    """
    joined = {
        name: {key: torch.cat([part[name][key] for part in parts]).float() for key in arrays}
        for name, arrays in parts[0].items()
    }
    if device.type != "cuda":
        return HostBlock(joined, None)
    arrays = {name: {key: _to_pinned(rows) for key, rows in by_key.items()} for name, by_key in joined.items()}
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(device))
    return HostBlock(arrays, arrived)


def _to_pinned(rows: Tensor) -> Tensor:
    return torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)


def write_block(block: HostBlock, works: Sequence[Work], samples: Samples, span: Span, computed_on: str) -> None:
    """Check and write the rows of a block. Raises FungiError with the samples that have rows that are not finite."""
    computed = block.wait()
    for work in works:
        arrays = {key: rows.numpy() for key, rows in computed[work.feature.name].items()}
        _require_finite(arrays, work, samples, span)
        where = f"{computed_on}, compiled" if _is_compiled() else computed_on
        if work.feature.objective is None:
            arrays[TARGETS] = samples.targets[span.start : span.stop]
            work.blocks.write(span, arrays, samples.ids[span.start : span.stop], computed_on=where)
        else:
            work.blocks.write(span, arrays, computed_on=where)


def _require_finite(arrays: dict[str, np.ndarray], work: Work, samples: Samples, span: Span) -> None:
    finite = np.all([np.isfinite(rows).reshape(len(rows), -1).all(axis=1) for rows in arrays.values()], axis=0)
    bad = [samples.ids[span.start + row] for row in np.flatnonzero(~finite).tolist()]
    if bad:
        half = work.feature.engine.dtype == torch.float16
        way_out = " Half precision may have overflowed: try --dtype float32." if half else ""
        raise FungiError(
            f"{work.feature.name} is not finite for {', '.join(bad[:4])} ({len(bad)} in this block).{way_out}"
        )


def _is_compiled() -> bool:
    """Return whether torch has compiled anything in this process: what was asked for may have failed."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return bool(dynamo and dynamo.counters["frames"]["ok"])
