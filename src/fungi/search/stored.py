"""Neighbours among stored keys (a bank of patches), by inner product.

Exact search goes through tiles of rows: of the keys in the memory of the device where they fit, else of the file.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.errors import FungiError, counted
from fungi.search import Backend
from fungi.search.backends import GROUP, QUERIES_AT_ONCE, SEARCHES
from fungi.search.libraries import TreeSettings
from fungi.search.neighbours import Found, Keys, StoredKeys, in_windows

_HELD_TILE = 8192
"""Rows of a held bank that are read, and multiplied, at once at the least."""
DATA_EFFICIENT_TREE = TreeSettings(searched=256, reordered=1800)


class BankSearch:
    """A back-end over a bank, by default every row against every query.

    tree, k: of the approximate back-ends, and the largest number of neighbours that they will be asked for; they hold
    the whole bank. tile_bytes: memory that exact search may use besides queries and results. A bank that fits into it
    beside the products of one tile is read once and kept on the device; of a larger one each search reads all rows
    again. Counted for a tile are its rows and the next ones as they are read, the products of 512 queries with the
    former as oneDNN gives them and as a plain tensor, and as much as one of these again to select the best.
    """

    def __init__(
        self,
        bank: StoredKeys,
        device: torch.device,
        backend: Backend = "exact",
        *,
        k: int = 1,
        tree: TreeSettings | None = None,
        tile_bytes: int = 1 << 28,
    ) -> None:
        self._rows, self._device = bank.rows, device
        products, bank_bytes = QUERIES_AT_ONCE * 4 * 3, bank.rows * bank.dim * 4
        self.held = backend != "exact" or bank_bytes + products * min(bank.rows, _HELD_TILE) <= tile_bytes
        """Whether the bank is in memory after the first search."""
        if backend != "exact":
            keys = in_windows(bank, bank.rows, torch.device("cpu"))
        elif self.held:
            keys = _kept(bank, max(GROUP, min(bank.rows, (tile_bytes - bank_bytes) // products)), device)
        else:
            keys = in_windows(bank, max(GROUP, min(bank.rows, tile_bytes // (bank.dim * 8 + products))), device)
        self._search = SEARCHES[backend](keys, "inner-product", k, tree)

    def __call__(self, queries: Float[Tensor, "q d"], k: int) -> Found:
        """Search; FungiError where the bank has fewer rows than k."""
        require_rows(self._rows, k)
        scores, rows = self._search(queries.to(self._device).float(), k)
        return Found(scores.to(queries.device), rows.to(queries.device))


def _kept(bank: StoredKeys, size: int, device: torch.device) -> Keys:
    """Return keys that are read from the bank at the first pass, and kept on the device; `size` rows at a time."""
    rows: list[Float[Tensor, "n d"]] = []

    def keys() -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
        if not rows:
            held = torch.empty(bank.rows, bank.dim, device=device)
            for start, window in bank.windows(_HELD_TILE):
                held[start : start + len(window)] = torch.from_numpy(window)
            rows.append(held)
        for start in range(0, bank.rows, size):
            stop = min(start + size, bank.rows)
            yield slice(start, stop), rows[0][start:stop]

    return keys


def require_rows(rows: int, k: int) -> None:
    """Raise FungiError where a bank is too small for k neighbours."""
    if rows < k:
        raise FungiError(
            f"k = {k} is too large: the bank has only {counted(rows, 'patch')}. Use a smaller --k, or a larger"
            " --memory-size."
        )
