"""Check features for degenerate values before they are scored.

Values that are not finite are an error. A feature is also an error if all its rows are equal. Rows whose entries are
all equal (constant rows) are kept, and the result contains a warning.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fungi.errors import FungiError

_MAX_LISTED = 5
"""Largest number of rows that a message lists."""


@dataclass
class DegenerateRowCheck:
    """Record of the degenerate rows of a feature. Call `add` for each block, then `warnings`.

    place: file and key of the array, `file:key`, for messages. count: number of rows that were added.
    """

    place: str
    zero_rows: list[int] = field(default_factory=list)
    constant_rows: list[int] = field(default_factory=list)
    count: int = 0
    _first_row: Tensor | None = None
    _all_rows_equal: bool = True

    def add(self, block: Float[Tensor, "b d"], rows: Int[Tensor, " b"]) -> None:
        """Add a block. rows: row numbers of the block in the file. Raises FungiError for values that are not finite."""
        self._refuse_not_finite(block, rows)
        if block.shape[0] == 0:
            return
        if self._first_row is None:
            self._first_row = block[0].clone()
        self.count += block.shape[0]
        self._all_rows_equal = self._all_rows_equal and bool((block == self._first_row).all())
        is_constant = block.amax(dim=1) == block.amin(dim=1)
        if bool(is_constant.any()) and block.shape[1] > 1:  # a row with one entry is always constant
            is_zero = is_constant & (block[:, 0] == 0)
            self.zero_rows += rows[is_zero].tolist()
            self.constant_rows += rows[is_constant & ~is_zero].tolist()

    def warnings(self) -> list[str]:
        """Return the warnings, after the last block. Raises FungiError if all rows are equal."""
        if self.count > 1 and self._all_rows_equal:
            raise FungiError(
                f"{self.place}: all {self.count} rows have the same values, so they can't be told apart."
                " Leave this feature out with --features, or extract it again with --overwrite."
            )
        kinds = [("all zero", self.zero_rows), ("constant (one value everywhere)", self.constant_rows)]
        return [f"{self.place}: {_start_of_sentence(rows)} {kind}" for kind, rows in kinds if rows]

    def _refuse_not_finite(self, block: Float[Tensor, "b d"], rows: Int[Tensor, " b"]) -> None:
        """Raise FungiError if an entry is NaN or infinite."""
        # The sum is fast. If it is finite, all entries are finite.
        if bool(torch.isfinite(block.sum())):
            return
        is_bad = (~torch.isfinite(block)).any(dim=1)
        if bool(is_bad.any()):
            raise FungiError(
                f"{self.place}: {_start_of_sentence(rows[is_bad].tolist())} NaN or infinite."
                " Compute the feature again, in float32 (extraction: --overwrite --dtype float32)."
            )


def _start_of_sentence(rows: list[int]) -> str:
    """Return the start of a sentence about rows: `1 row (row 3) is`, `2 rows (rows 3, 7) are`."""
    numbers = ", ".join(map(str, rows[:_MAX_LISTED])) + (", ..." if len(rows) > _MAX_LISTED else "")
    return f"{len(rows)} rows (rows {numbers}) are" if len(rows) > 1 else f"{len(rows)} row (row {numbers}) is"
