"""Compute the views of the images in worker processes, in the order of the batches (spec udi 3, 5).

All random numbers depend only on seed, epoch and image. The views of a batch therefore do not depend on the first step
of a run, the number of workers or the number of processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.pretraining.batch_plan import BatchPlan, EpochRow
from fungi.pretraining.udi.views import ViewOptions, Views, collate, make_views
from fungi.runtime.seeds import numpy_generator
from fungi.views.workers import worker_batches


@dataclass(frozen=True)
class ViewedImages:
    """A dataset: item (epoch, row) is the views of an image in an epoch, or the error if the image can't be read."""

    samples: Samples
    options: ViewOptions
    seed: int

    def __getitem__(self, epoch_row: EpochRow) -> dict[str, Any] | FungiError:
        epoch, row = epoch_row
        random = numpy_generator(self.seed, "udi", epoch, self.samples.ids[row])
        try:
            return make_views(self.samples.load(row), self.options, random)
        except FungiError as error:
            return error

    def __len__(self) -> int:
        return len(self.samples)


def batches(
    images: ViewedImages, plan: BatchPlan, *, rank: int, first_step: int, workers: int, pin_memory: bool = False
) -> Iterator[list[Views]]:
    """Yield the parts of each step, which workers compute in advance. Raises FungiError if an image can't be read."""
    parts = worker_batches(images, plan.parts(rank, first_step), _collate, num_workers=workers, pin_memory=pin_memory)
    while True:
        yield [next(parts) for _ in range(plan.accumulate)]


def _collate(images: Sequence[dict[str, Any] | FungiError]) -> Views | FungiError:
    """Return the views of several images as a batch, or the first error."""
    views: list[dict[str, Any]] = []
    for image in images:
        if isinstance(image, FungiError):
            return image
        views.append(image)
    return collate(views)
