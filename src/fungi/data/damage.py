"""All items of a split that can't be read, listed at once, so that one pass over the data names them all."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fungi.data.base import Samples
from fungi.data.formats.mask_files import check_mask
from fungi.errors import FungiError
from fungi.runtime.log import progress

SHOWN = 10
"""Damaged items that an error names one by one."""


@dataclass(frozen=True)
class DamagedItem:
    """A row whose item, or mask, can't be read, and the error that says why."""

    row: int
    sample_id: str
    cause: str


def damaged_items(samples: Samples, rows: Iterable[int] | None = None, *, label: str = "reading") -> list[DamagedItem]:
    """Return the items that can't be read, in the order of `rows` (all rows by default). Every item is decoded."""
    chosen = list(range(len(samples)) if rows is None else rows)

    def check(row: int) -> DamagedItem | None:
        try:
            item = samples.load(row)
            if samples.mask is not None:
                check_mask(samples.mask(row), item, len(samples.class_names), samples.ids[row])
        except FungiError as error:
            return DamagedItem(row, samples.ids[row], str(error))
        return None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        checked = progress(pool.map(check, chosen), [1] * len(chosen), label=label, unit="item")
        return [damaged for damaged in checked if damaged is not None]


def without(samples: Samples, damaged: Iterable[DamagedItem]) -> Samples:
    """Return the other rows, in their order, under their own ids; the fingerprint is another one."""
    left_out = {item.row for item in damaged}
    return samples.take([row for row in range(len(samples)) if row not in left_out])


def damage_error(
    damaged: list[DamagedItem], rows: int, *, way_out: str = "Replace them, or take them out."
) -> FungiError:
    """Return the error that names damaged items, one per line."""
    return FungiError("\n  ".join([f"{len(damaged):,} of {rows:,} items can't be read. {way_out}", *causes(damaged)]))


def causes(damaged: list[DamagedItem]) -> list[str]:
    """Return one line per damaged item, with the cause: the first ones, and the number of the others."""
    more = [f"and {len(damaged) - SHOWN:,} more"] if len(damaged) > SHOWN else []
    return [*(item.cause.removesuffix(" Replace the file.") for item in damaged[:SHOWN]), *more]
