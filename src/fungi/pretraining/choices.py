"""What can be chosen, and where the reference implementation differs from what its method says (spec udi 8.2).

Needs no torch, so that `--help` is instant.
"""

from dataclasses import dataclass
from typing import Literal

Coordinates = Literal["corner", "center"]
"""Where tokens of a crop lie: the outer ones on its edge (the reference), or each in the middle of its cell."""
TargetMix = Literal["logits", "probs"]
"""What the target of cls+ is the mean of: logits (the reference), or distributions (the paper's figure)."""
Optimizer = Literal["adamw", "sgd", "lars"]


@dataclass(frozen=True, kw_only=True)
class Deviations:
    """The switches; `clean` has none of them, `published` all.

    row_start_in_columns: the horizontal extent of two crops is measured from the *row* start of the new one, so that
        about one pair in 200 does not overlap enough (8.2-1).
    signed_reference: local crops are drawn towards the smallest start and the largest end of boxes that keep their
        flip, which is the union, the intersection or one of the two crops (8.2-2). Clean: the union of both.
    process_means: the patch loss is averaged in each process by its own count of valid samples, and centres are
        averaged over processes without weights (8.2-9). Clean: sums over the whole batch, whatever it is split into.
    """

    row_start_in_columns: bool = False
    signed_reference: bool = False
    process_means: bool = False


DEVIATIONS = {
    "clean": Deviations(),
    "published": Deviations(row_start_in_columns=True, signed_reference=True, process_means=True),
}
