"""Search among stored keys (a bank of patches) by inner product.

Exact search processes tiles of rows. If the bank fits into the memory of the device, the rows come from this memory,
otherwise from the file.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fungi.errors import FungiError, counted
from fungi.search import Backend
from fungi.search.backends import GROUP, QUERIES_PER_TILE, SEARCHES
from fungi.search.libraries import TreeSettings
from fungi.search.neighbours import Keys, Neighbours, StoredKeys, in_windows

_READ_ROWS = 8192
"""Number of rows per read. A bank stays in memory only if there is also memory for a tile of this many rows."""
DATA_EFFICIENT_TREE = TreeSettings(searched=256, reordered=1800)
"""The published settings for banks from a few images (`--images`)."""


class BankSearch:
    """Function that returns the nearest rows of a bank for queries. The default back-end searches all rows.

    tree, k: tree and largest number of neighbours for the approximate back-ends, which keep the entire bank in memory.
    tile_bytes: memory for exact search, in addition to queries and results. If the bank and the products of one tile
        fit, the bank is read once and kept on the device. Otherwise, each search reads all rows again. Then a tile
        needs memory for its rows and for the rows that are read next. Every tile needs memory for three copies of its
        products with 512 queries: in the format of oneDNN, as an ordinary tensor, and for the selection of the best.
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
        self._on_device: list[Float[Tensor, "n d"]] = []
        product_bytes = QUERIES_PER_TILE * 4 * 3  # per row of a tile: three copies in float32
        bank_bytes = bank.rows * bank.dim * 4  # float32
        self.is_in_memory = backend != "exact" or bank_bytes + product_bytes * min(bank.rows, _READ_ROWS) <= tile_bytes
        """Whether the bank stays in memory after the first search."""
        if backend != "exact":
            keys = in_windows(bank, bank.rows, torch.device("cpu"))
        elif self.is_in_memory:
            tile_rows = max(GROUP, min(bank.rows, (tile_bytes - bank_bytes) // product_bytes))
            keys = _keys_on_device(bank, tile_rows, device, self._on_device)
        else:
            row_bytes = 2 * bank.dim * 4 + product_bytes  # this tile and the next
            keys = in_windows(bank, max(GROUP, min(bank.rows, tile_bytes // row_bytes)), device)
        self._search = SEARCHES[backend](keys, "inner-product", k, tree)

    def __call__(self, queries: Float[Tensor, "q d"], k: int) -> Neighbours:
        """Return the k nearest rows of each query. Raises FungiError if the bank has fewer than k rows."""
        require_rows(self._rows, k)
        scores, rows = self._search(queries.to(self._device).float(), k)
        return Neighbours(scores.to(queries.device), rows.to(queries.device))

    def kept_features(self, rows: Int64[Tensor, "*q"]) -> Float[Tensor, "*q d"] | None:
        """Return the features of rows from the memory of the device, or None if the bank is not kept there."""
        return self._on_device[0][rows] if self._on_device else None


def _keys_on_device(bank: StoredKeys, size: int, device: torch.device, cache: list[Float[Tensor, "n d"]]) -> Keys:
    """Return blocks of `size` keys. The first pass reads the bank into `cache`, an empty list, for later passes."""

    def keys() -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
        if not cache:
            entire_bank = torch.empty(bank.rows, bank.dim, device=device)
            for start, window in bank.windows(_READ_ROWS):
                entire_bank[start : start + len(window)] = torch.from_numpy(window)
            cache.append(entire_bank)
        for start in range(0, bank.rows, size):
            stop = min(start + size, bank.rows)
            yield slice(start, stop), cache[0][start:stop]

    return keys


def require_rows(rows: int, k: int) -> None:
    """Raise FungiError if a bank has fewer than k rows."""
    if rows < k:
        raise FungiError(
            f"k = {k} is too large: the bank has only {counted(rows, 'patch')}. Use a smaller --k, or a larger"
            " --memory-size."
        )
