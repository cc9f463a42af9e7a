"""Check features for degenerate values before they are scored.

Values that are not finite, and features that are equal in every row, are errors. Single constant rows (all zero, or one
value everywhere) are kept, and the result contains a warning.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fungi.errors import FungiError

_SHOWN = 5


@dataclass
class FeatureHealth:
    """Collects degenerate rows of a feature in a split. Call `add` once per block, then `close` for the warnings.

    place: file and key of the array, `file:key`, for messages.
    """

    place: str
    zero_rows: list[int] = field(default_factory=list)
    constant_rows: list[int] = field(default_factory=list)
    seen: int = 0
    _first_row: Tensor | None = None
    _all_the_same: bool = True

    def add(self, block: Float[Tensor, "b d"], rows: Int[Tensor, " b"]) -> None:
        """Add a block. rows: its row numbers in the file. Raises FungiError for values that are not finite."""
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
        """Return the warnings, after the last block. Raises FungiError if all rows are equal."""
        if self.seen > 1 and self._all_the_same:
            raise FungiError(
                f"{self.place}: all {self.seen} rows have the same values, so they can't be told apart."
                " Leave this feature out with --features, or extract it again with --overwrite."
            )
        kinds = [("all zero", self.zero_rows), ("constant (one value everywhere)", self.constant_rows)]
        return [f"{self.place}: {_listed(rows)} {kind}" for kind, rows in kinds if rows]

    def _refuse_not_finite(self, block: Float[Tensor, "b d"], rows: Int[Tensor, " b"]) -> None:
        # If an entry is not finite, the sum is not finite either. Check single entries only then.
        if bool(torch.isfinite(block.sum())):
            return
        bad = (~torch.isfinite(block)).any(dim=1)
        if bool(bad.any()):
            raise FungiError(
                f"{self.place}: {_listed(rows[bad].tolist())} NaN or infinite."
                " Compute the feature again, in float32 (extraction: --overwrite --dtype float32)."
            )


def _listed(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")
    return f"{len(rows)} row{'s are' if len(rows) > 1 else ' is'} ({'rows' if len(rows) > 1 else 'row'} {shown})"
