"""Copy blocks from the device to the host and write them to disk, while the device computes the next blocks.

The computing thread queues the copy of a block directly after the computation of the block. The writing thread then
waits only for this block, and not for work that was queued later.
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
"""Number of blocks, of a few megabytes each, that may wait for the disk. If there are more, the computation waits."""


@runtime_checkable
class Event(Protocol):
    """A point in the queue of a device, such as `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait until the device has reached this point."""


@dataclass(frozen=True)
class HostBlock:
    """Rows of a block in host memory; they are complete after the event `end_of_copy`."""

    arrays: core.FeatureRows
    end_of_copy: Event | None

    def wait(self) -> core.FeatureRows:
        """Wait for the copy, and return the arrays."""
        if self.end_of_copy is not None:
            self.end_of_copy.synchronize()
        return self.arrays


def start_copy(batches: Sequence[Mapping[str, Mapping[str, Tensor]]], device: torch.device) -> HostBlock:
    """Concatenate the batches of a block and queue the copy to the host, in float32; do not wait for the copy.

    batches: `{feature: {array: [b p]}}` for each batch; b may differ between batches.
    """
    block = {
        feature: {key: torch.cat([batch[feature][key] for batch in batches]).float() for key in arrays}
        for feature, arrays in batches[0].items()
    }
    if device.type != "cuda":
        return HostBlock(block, None)
    copies = {feature: {key: _to_pinned(rows) for key, rows in arrays.items()} for feature, arrays in block.items()}
    end_of_copy = torch.cuda.Event()
    end_of_copy.record(torch.cuda.current_stream(device))
    return HostBlock(copies, end_of_copy)


def _to_pinned(rows: Tensor) -> Tensor:
    """Queue a copy of the rows to pinned host memory, and return the copy."""
    return torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)


def write_block(block: HostBlock, works: Sequence[Work], samples: Samples, span: Span, computed_on: str) -> None:
    """Check and write the rows of a block. Raises FungiError with the names of samples whose features are not finite.

    computed_on: name of the device, for the provenance.
    """
    features = block.wait()
    if _is_compiled():
        computed_on += ", compiled"
    for work in works:
        arrays = {key: rows.numpy() for key, rows in features[work.feature.name].items()}
        _require_finite(arrays, work, samples, span)
        if work.feature.objective is None:
            arrays[TARGETS] = samples.targets[span.start : span.stop]
            work.blocks.write(span, arrays, samples.ids[span.start : span.stop], computed_on=computed_on)
        else:
            work.blocks.write(span, arrays, computed_on=computed_on)


def _require_finite(arrays: dict[str, np.ndarray], work: Work, samples: Samples, span: Span) -> None:
    """Raise FungiError with the names of samples whose features are not finite. arrays: rows of the span."""
    is_finite = np.all([np.isfinite(rows).reshape(len(rows), -1).all(axis=1) for rows in arrays.values()], axis=0)
    names = [samples.ids[span.start + row] for row in np.flatnonzero(~is_finite).tolist()]
    if names:
        is_half = work.feature.engine.dtype == torch.float16
        advice = " Half precision may have overflowed: try --dtype float32." if is_half else ""
        raise FungiError(
            f"{work.feature.name} is not finite for {', '.join(names[:4])} ({len(names)} in this block).{advice}"
        )


def _is_compiled() -> bool:
    """Return whether torch has compiled code in this process. Even with --compile on, compiling may have failed."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return bool(dynamo and dynamo.counters["frames"]["ok"])
