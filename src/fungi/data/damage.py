"""Find all damaged items of a split in one pass over the data."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fungi.data.base import Samples
from fungi.data.formats.mask_files import check_mask
from fungi.errors import FungiError, counted
from fungi.runtime.log import progress

MAX_LISTED = 10
"""Largest number of damaged items that an error lists."""


@dataclass(frozen=True)
class DamagedItem:
    """A row with an unreadable item or mask. cause: message of the error."""

    row: int
    sample_id: str
    cause: str


def damaged_items(samples: Samples, rows: Iterable[int] | None = None, *, label: str = "reading") -> list[DamagedItem]:
    """Read the items and masks of `rows` (None: all rows), and return the damaged items in the order of `rows`.

    label: name of this step in the progress display.
    """
    selected = list(range(len(samples)) if rows is None else rows)

    def check(row: int) -> DamagedItem | None:
        try:
            item = samples.load(row)
            if samples.mask is not None:
                check_mask(samples.mask(row), item, len(samples.class_names), samples.ids[row])
        except FungiError as error:
            return DamagedItem(row, samples.ids[row], str(error))
        return None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        # Every step checks one item.
        checks = progress(pool.map(check, selected), [1] * len(selected), label=label, unit="item")
        return [damaged for damaged in checks if damaged is not None]


def without_damaged(samples: Samples, damaged: Iterable[DamagedItem]) -> Samples:
    """Return the samples without the damaged items. The other items keep their order and ids."""
    damaged_rows = {item.row for item in damaged}
    return samples.take([row for row in range(len(samples)) if row not in damaged_rows])


def damage_error(
    damaged: Sequence[list[DamagedItem]], rows: int, *, advice: str = "Replace or remove them."
) -> FungiError:
    """Return the error that lists damaged items, one per line.

    damaged: one list per split. rows: total number of items in these splits.
    """
    heading = f"{sum(map(len, damaged)):,} of {counted(rows, 'item')} can't be read. {advice}"
    lines = [line for items in damaged for line in damage_lines(items)]
    return FungiError("\n  ".join([heading, *lines]))


def damage_lines(damaged: list[DamagedItem]) -> list[str]:
    """Return lines with the causes of the first ten damaged items, and a line with the number of further items."""
    # The heading of `damage_error` gives the advice for all items.
    causes = [item.cause.removesuffix(" Replace the file.") for item in damaged[:MAX_LISTED]]
    further = [f"and {len(damaged) - MAX_LISTED:,} more"] if len(damaged) > MAX_LISTED else []
    return [*causes, *further]
