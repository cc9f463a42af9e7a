"""The order of images, and their views from workers (spec udi 3, 5).

Everything derives from (seed, epoch, image): the step that a run starts with, the number of workers and the number of
processes leave the views of a batch as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.pretraining.views import ViewOptions, Views, collate, make_views
from fungi.runtime.seeds import numpy_generator

EpochRow = tuple[int, int]
"""(epoch, row)"""


@dataclass(frozen=True)
class BatchPlan:
    """How a batch is split: `accumulate` parts of `part` images in each of `processes`."""

    rows: int
    part: int
    accumulate: int = 1
    processes: int = 1
    seed: int = 0

    @property
    def batch(self) -> int:
        """Images of a step, over all processes."""
        return self.part * self.accumulate * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches; the remaining images wait for another epoch's order. FungiError where there is none."""
        steps = self.rows // self.batch
        if not steps:
            raise FungiError(
                f"{self.rows} images are fewer than one batch of {self.batch} ({self.part} per process x "
                f"{self.processes} processes x {self.accumulate} accumulated). Use a smaller --batch-size-per-gpu."
            )
        return steps

    def order(self, epoch: int) -> Int64[np.ndarray, " rows"]:
        """The rows in the order of an epoch."""
        return numpy_generator(self.seed, "order", epoch).permutation(self.rows)

    def parts(self, rank: int, first_step: int) -> Iterator[list[EpochRow]]:
        """The parts of one process from a step on, without end."""
        epoch, skipped = divmod(first_step, self.steps_per_epoch)
        while True:
            order = self.order(epoch)
            for step in range(skipped, self.steps_per_epoch):
                start = step * self.batch + rank * self.part * self.accumulate
                for part in range(self.accumulate):
                    rows = order[start + part * self.part :][: self.part]
                    yield [(epoch, int(row)) for row in rows]
            epoch, skipped = epoch + 1, 0


@dataclass(frozen=True)
class ViewedImages:
    """(epoch, row) -> the views of that image in that epoch; an image that can't be read comes as its error."""

    samples: Samples
    options: ViewOptions
    seed: int

    def __getitem__(self, which: EpochRow) -> dict[str, Any] | FungiError:
        epoch, row = which
        random = numpy_generator(self.seed, "udi", epoch, self.samples.ids[row])
        try:
            return make_views(self.samples.load(row), self.options, random)
        except FungiError as error:
            return error

    def __len__(self) -> int:
        return len(self.samples)


def batches(
    images: ViewedImages, plan: BatchPlan, *, rank: int, first_step: int, workers: int
) -> Iterator[list[Views]]:
    """The parts of each step, decoded by workers ahead of need. FungiError for an image that can't be read."""
    from torch.utils.data import DataLoader

    rows: Any = plan.parts(rank, first_step)
    source: Any = images
    parts = iter(DataLoader(source, batch_sampler=rows, num_workers=workers, collate_fn=_collate))
    while True:
        step = []
        for _ in range(plan.accumulate):
            views = next(parts)
            if isinstance(views, FungiError):
                raise views
            step.append(views)
        yield step


def _collate(made: Sequence[dict[str, Any] | FungiError]) -> Views | FungiError:
    found = [one for one in made if not isinstance(one, FungiError)]
    return collate(found) if len(found) == len(made) else next(one for one in made if isinstance(one, FungiError))
