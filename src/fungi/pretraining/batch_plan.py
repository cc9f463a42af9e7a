"""Split the images of an epoch into steps, processes and parts (spec udi 5)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from fungi.errors import FungiError, counted
from fungi.runtime.seeds import numpy_generator

EpochRow = tuple[int, int]
"""(epoch, row)"""


@dataclass(frozen=True)
class BatchPlan:
    """The division of the images into batches, and of each batch into parts.

    rows: number of images. part_size: number of images that a process computes at once.
    accumulate: number of parts whose gradients a process adds up in a step. processes: number of processes.
    """

    rows: int
    part_size: int
    accumulate: int = 1
    processes: int = 1
    seed: int = 0

    @property
    def batch(self) -> int:
        """The number of images per step, over all processes."""
        return self.part_size * self.accumulate * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches per epoch; remaining images are skipped.

        Raises FungiError if there are too few images for a batch.
        """
        steps = self.rows // self.batch
        if not steps:
            raise FungiError(
                f"{counted(self.rows, 'image')} can't fill a batch of {self.batch} ({self.part_size} per process x "
                f"{self.processes} processes x {self.accumulate} accumulated). Use a smaller --batch-size-per-gpu."
            )
        return steps

    def order(self, epoch: int) -> Int64[np.ndarray, " rows"]:
        """Return the shuffled rows of an epoch."""
        return numpy_generator(self.seed, "order", epoch).permutation(self.rows)

    def parts(self, rank: int, first_step: int) -> Iterator[list[EpochRow]]:
        """Yield the parts of one process, starting at `first_step`. The iterator never ends."""
        epoch, first_step_of_epoch = divmod(first_step, self.steps_per_epoch)
        while True:
            order = self.order(epoch)
            for step in range(first_step_of_epoch, self.steps_per_epoch):
                start = step * self.batch + rank * self.part_size * self.accumulate
                for part in range(self.accumulate):
                    rows = order[start + part * self.part_size :][: self.part_size]
                    yield [(epoch, int(row)) for row in rows]
            epoch, first_step_of_epoch = epoch + 1, 0
