"""How long a collection will take and how large its features are, said once the first batch is measured."""

import logging

from jaxtyping import Float
from torch import Tensor

from fungi.runtime.log import logger

LONG_SECONDS, LARGE_BYTES = 120.0, 2**30
"""Beyond these it is a warning, which Python shows by default."""


def say_cost(rows: int, first_batch: Float[Tensor, "b f"], seconds: float) -> None:
    """Time and memory of `rows` images whose first batch took so many seconds, its decoding included."""
    done, width = first_batch.shape
    whole, size = seconds * rows / done, 4 * rows * width
    level = logging.WARNING if whole > LONG_SECONDS or size > LARGE_BYTES else logging.INFO
    time = f"{whole / 60:.0f} minutes" if whole > LONG_SECONDS else f"{whole:.0f} seconds"
    logger.log(
        level,
        f"{rows:,} images at {done / seconds:.1f} a second: about {time}; features [{rows}, {width}]: "
        f"{size / 1e6:,.1f} MB",
    )
