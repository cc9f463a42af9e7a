"""What is wrong with features before they are scored: named, never silently passed on (issue: degenerate input).

Values that are not finite, and features that are the same for every row, are errors. Single rows that say nothing (all
zero, or the same number everywhere) are kept, and recorded as a warning beside the score.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fungi.errors import FungiError

_SHOWN = 5


@dataclass
class FeatureHealth:
    """Running account of one feature of one split; `look` at each block once, then read `warnings`.

    place: the array as people find it, `file:key`.
    """

    place: str
    zero_rows: list[int] = field(default_factory=list)
    constant_rows: list[int] = field(default_factory=list)
    seen: int = 0
    _first_row: Tensor | None = None
    _all_the_same: bool = True

    def look(self, block: Float[Tensor, "b d"], rows: Int[Tensor, " b"]) -> None:
        """Take in a block. rows: their row numbers in the file. FungiError for values that are not finite."""
        self._refuse_not_finite(block, rows)
        if block.shape[0] == 0:
            return
        if self._first_row is None:
            self._first_row = block[0].clone()
        self.seen += block.shape[0]
        self._all_the_same = self._all_the_same and bool((block == self._first_row).all())
        constant = block.amax(dim=1) == block.amin(dim=1)
        if bool(constant.any()) and block.shape[1] > 1:
            zero = constant & (block[:, 0] == 0)
            self.zero_rows += rows[zero].tolist()
            self.constant_rows += rows[constant & ~zero].tolist()

    def close(self) -> list[str]:
        """Warnings for the result, after the last block; FungiError where every row is the same."""
        if self.seen > 1 and self._all_the_same:
            raise FungiError(
                f"{self.place}: all {self.seen} rows hold the same values, so there is nothing to tell them apart by."
                " Leave this feature out with --features, or extract it again with --overwrite."
            )
        kinds = [("all zero", self.zero_rows), ("constant (one value everywhere)", self.constant_rows)]
        return [f"{self.place}: {_listed(rows)} {what}" for what, rows in kinds if rows]

    def _refuse_not_finite(self, block: Float[Tensor, "b d"], rows: Int[Tensor, " b"]) -> None:
        # The sum is not finite if any entry is not; entries are looked at only then.
        if bool(torch.isfinite(block.sum())):
            return
        bad = (~torch.isfinite(block)).any(dim=1)
        if bool(bad.any()):
            raise FungiError(
                f"{self.place}: {_listed(rows[bad].tolist())} NaN or infinite."
                " Compute it again, in float32 if it was in a shorter type (extraction: --overwrite --dtype float32)."
            )


def _listed(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
    return f"{len(rows)} row{'s are' if len(rows) > 1 else ' is'} ({'rows' if len(rows) > 1 else 'row'} {shown})"
