"""Compute the views of the images in worker processes, in the order of the batches (spec udi 3, 5).

All random numbers depend only on seed, epoch and image. The views of a batch therefore do not depend on the first step
of a run, the number of workers or the number of processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fungi.data.base import Samples
from fungi.pretraining.batch_plan import BatchPlan, EpochRow
from fungi.pretraining.udi.views import ViewOptions, Views, collate, make_views
from fungi.runtime.seeds import numpy_generator
from fungi.views.workers import worker_batches


@dataclass(frozen=True)
class ViewedImages:
    """A dataset: item (epoch, row) is the views of an image in an epoch."""

    samples: Samples
    options: ViewOptions
    seed: int

    def __getitem__(self, epoch_row: EpochRow) -> dict[str, Any]:
        epoch, row = epoch_row
        random = numpy_generator(self.seed, "udi", epoch, self.samples.ids[row])
        return make_views(self.samples.load(row), self.options, random)

    def __len__(self) -> int:
        return len(self.samples)


def batches(
    images: ViewedImages, plan: BatchPlan, *, rank: int, first_step: int, workers: int, pin_memory: bool = False
) -> Iterator[list[Views]]:
    """Yield the parts of each step, which workers compute in advance. Raises FungiError if an image can't be read.

    rank: rank of this process. first_step: step of the run at which the iterator begins. workers: number of worker
    processes.
    """
    parts = worker_batches(images, plan.parts(rank, first_step), collate, num_workers=workers, pin_memory=pin_memory)
    while True:
        yield [next(parts) for _ in range(plan.accumulate)]
