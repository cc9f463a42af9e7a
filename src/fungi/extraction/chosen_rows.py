"""Use only some rows of a split: a few rows for a first try, or only the rows that can be read."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fungi.data.base import DatasetSpec, Samples
from fungi.data.damage import damage_lines, damaged_items, without_damaged
from fungi.errors import counted
from fungi.extraction.stage import limited_name
from fungi.runtime.log import logger


@dataclass(frozen=True)
class ChosenRows:
    """A function that opens a split of a dataset and returns only some of its rows.

    limit: largest number of rows; 0: all. The chosen rows are evenly spaced, so that sorted splits keep all classes.
    skip_damaged: whether to leave out items that can't be read; this decodes every item once.
    skipped: opened split -> ids of the items that were left out as damaged.
    """

    open: Callable[[Path, str], Samples]
    limit: int = 0
    skip_damaged: bool = False
    skipped: dict[str, list[str]] = field(default_factory=dict, compare=False)

    def __call__(self, data_dir: Path, split: str) -> Samples:
        """Return the chosen rows of a split, in their order."""
        samples = self.open(data_dir, split)
        if 0 < self.limit < len(samples):
            samples = samples.take(np.arange(self.limit) * len(samples) // self.limit)
        if not self.skip_damaged:
            return samples
        damaged = damaged_items(samples, label=f"{split}: looking for damaged items")
        self.skipped[split] = [item.sample_id for item in damaged]
        if damaged:
            heading = f"{split}: leaving out {len(damaged):,} of {counted(len(samples), 'item')}:"
            logger.warning("\n  ".join([heading, *damage_lines(damaged)]))
        return without_damaged(samples, damaged)


def with_chosen_rows(dataset: DatasetSpec, limit: int, *, skip_damaged: bool) -> DatasetSpec:
    """Return a dataset of the chosen rows; if `limit` is set, the dataset has another name (`limited_name`).

    limit, skip_damaged: as in `ChosenRows`.
    """
    if not limit and not skip_damaged:
        return dataset
    chosen = replace(dataset, open=ChosenRows(dataset.open, limit, skip_damaged))
    if not limit:
        return chosen
    unknown_sizes = dict.fromkeys(dataset.sizes)
    return replace(chosen, name=limited_name(dataset.name, limit), sizes=unknown_sizes, is_in_paper=False)
