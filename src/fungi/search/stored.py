"""Neighbours among stored keys (a bank of patches), by inner product: exact in tiles, or with an index made once."""

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.errors import FungiError
from fungi.search import Backend
from fungi.search.backends import GROUP, QUERIES_AT_ONCE, SEARCHES
from fungi.search.libraries import TreeSettings
from fungi.search.neighbours import Found, StoredKeys, in_windows

DATA_EFFICIENT_TREE = TreeSettings(searched=256, reordered=1800)


class BankSearch:
    """A back-end over a bank, by default every row against every query.

    tree, k: of the approximate back-ends, and the most neighbours that they will be asked for; they hold all of the
    bank. tile_bytes: what torch may hold besides queries and results, whatever the bank's size and the number of
    queries. Counted are a tile of rows and the next one as it is read, the products of 512 queries with the former as
    oneDNN gives them and as a plain tensor, and as much as one of these again to find the best, which is generous.
    """

    def __init__(
        self,
        bank: StoredKeys,
        device: torch.device,
        backend: Backend = "torch",
        *,
        k: int = 1,
        tree: TreeSettings | None = None,
        tile_bytes: int = 1 << 28,
    ) -> None:
        self._rows, self._device = bank.rows, device
        per_row = bank.dim * 8 + QUERIES_AT_ONCE * 4 * 3
        size = max(GROUP, min(bank.rows, tile_bytes // per_row)) if backend == "torch" else bank.rows
        place = device if backend == "torch" else torch.device("cpu")
        self._search = SEARCHES[backend](in_windows(bank, size, place), "inner-product", k, tree)

    def __call__(self, queries: Float[Tensor, "q d"], k: int) -> Found:
        """Search; FungiError where the bank has fewer rows than k."""
        require_rows(self._rows, k)
        scores, rows = self._search(queries.to(self._device).float(), k)
        return Found(scores.to(queries.device), rows.to(queries.device))


def require_rows(rows: int, k: int) -> None:
    """FungiError where a bank is too small for k neighbours."""
    if rows < k:
        raise FungiError(
            f"{k} neighbours were asked for, but the bank has {rows} patches. Use --neighbours, or a larger "
            "--memory-size."
        )
