"""The features of a split as L2-normalised blocks of rows.

If the features fit into memory, they are read once. Otherwise, they are read again in each pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Integer
from torch import Tensor

from fungi.combine.degenerate import DegenerateRowCheck
from fungi.errors import FungiError, counted

Block = dict[str, Float[Tensor, "b d"]]
"""A block of rows: feature name -> `[b d]`."""
BLOCK_ROWS = 8192
"""Default number of rows that are read in one step."""
MEMORY_BYTES = 4 << 30
"""Features of a split that need at most this memory are kept in memory by default."""


@runtime_checkable
class ReadableArray(Protocol):
    """An array in a file or in memory that a source reads."""

    @property
    def rows(self) -> int:
        """Number of rows n."""

    @property
    def dim(self) -> int:
        """Number of columns d."""

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "b d"]:
        """Return rows `start` to `stop`."""


class ArrayInMemory:
    """An array `[n d]` in memory, for the library and for tests."""

    def __init__(self, values: Float[np.ndarray, "n d"], name: str = "array") -> None:
        self.values = values
        self.rows, self.dim = values.shape
        self.path = Path(name)

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "b d"]:
        """Return rows `start` to `stop`."""
        return np.asarray(self.values[start:stop], dtype=np.float32)

    def __str__(self) -> str:
        return str(self.path)


class FeatureSource:
    """Features of selected rows of a split, as blocks of rows.

    arrays: feature name -> array; all arrays have the same rows in the same order.
    rows: selected rows, ascending; by default all rows.
    unnormalized: features that are not normalised. The rows of other features are L2-normalised (spec vision 9.1).
    block_rows: number of rows to read in one step.
    memory_bytes: if the selected rows need at most this number of bytes in float32, they are kept in memory.
    """

    def __init__(
        self,
        arrays: Mapping[str, ReadableArray],
        rows: Integer[np.ndarray, " selected"] | None = None,
        *,
        unnormalized: frozenset[str] = frozenset(),
        block_rows: int = BLOCK_ROWS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        sizes = {array.rows for array in arrays.values()}
        assert len(sizes) == 1, "arrays of one split have the same rows: the caller checks it"
        self._arrays = dict(arrays)
        self._rows = np.arange(sizes.pop()) if rows is None else np.asarray(rows)
        assert (np.diff(self._rows) > 0).all(), "rows are ascending"
        self._unnormalized = unnormalized
        self._block_rows = block_rows
        self._memory_bytes = memory_bytes
        self._loaded: Block = {}
        self._warnings: dict[str, list[str]] = {}
        self.dims = {name: array.dim for name, array in arrays.items()}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all features."""
        return tuple(self._arrays)

    @property
    def fits_in_memory(self) -> bool:
        """Whether the selected rows of all features fit into memory. They are then read only once."""
        float32_bytes = 4
        return len(self) * sum(self.dims.values()) * float32_bytes <= self._memory_bytes

    def dim_of(self, names: Sequence[str]) -> int:
        """Return the size of the concatenated features."""
        return sum(self.dims[name] for name in names)

    def warnings(self) -> list[str]:
        """Return warnings about the rows that were read."""
        return [text for name in self._arrays for text in self._warnings.get(name, [])]

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[slice, Block]]:
        """Yield blocks of the selected rows in order: (slice of the selected rows, feature -> `[b d]`)."""
        if self.fits_in_memory:
            self._load(names)
            for start in range(0, len(self), self._block_rows):
                selected = slice(start, min(start + self._block_rows, len(self)))
                yield selected, {name: self._loaded[name][selected] for name in names}
        else:
            yield from self._read_blocks(names)

    def _load(self, names: Sequence[str]) -> None:
        """Read the selected rows of some features into memory, unless the memory already has them."""
        missing = [name for name in names if name not in self._loaded]
        if not missing:
            return
        arrays = {name: torch.empty(len(self), self.dims[name]) for name in missing}
        for selected, block in self._read_blocks(missing):
            for name in missing:
                arrays[name][selected] = block[name]
        self._loaded |= arrays

    def _read_blocks(self, names: Sequence[str]) -> Iterator[tuple[slice, Block]]:
        """Yield blocks from the files in file order: read all rows of a block, and keep the selected rows."""
        checks = {name: DegenerateRowCheck(str(self._arrays[name])) for name in names}
        rows_in_file = self._arrays[names[0]].rows
        for start in range(0, rows_in_file, self._block_rows):
            stop = min(start + self._block_rows, rows_in_file)
            # The slice of the selected rows that lie between start and stop in the file.
            selected = slice(*np.searchsorted(self._rows, (start, stop)).tolist())
            if selected.start == selected.stop:
                continue
            rows = self._rows[selected]
            yield selected, {name: self._read(name, start, stop, rows, checks[name]) for name in names}
        for name in names:
            self._warnings[name] = checks[name].warnings()

    def _read(
        self, name: str, start: int, stop: int, rows: Integer[np.ndarray, " b"], check: DegenerateRowCheck
    ) -> Float[Tensor, "b d"]:
        """Read the rows `start` to `stop` of a feature from its file, and return those that are in `rows`."""
        block = torch.from_numpy(self._arrays[name].read(start, stop))
        if len(rows) < stop - start:
            block = block[torch.from_numpy(rows - start)]
        check.add(block, torch.from_numpy(rows))
        return block if name in self._unnormalized else l2_normalized(block)


def l2_normalized(features: Float32[Tensor, "b d"]) -> Float32[Tensor, "b d"]:
    """Return rows of unit norm; rows of zeros do not change. Norms are float64, because gradients can be tiny."""
    features64 = features.double()
    norms = torch.linalg.vector_norm(features64, dim=1, keepdim=True)
    return (features64 / torch.where(norms > 0, norms, torch.ones_like(norms))).float()


def require_rows(source: FeatureSource, at_least: int, purpose: str, advice: str) -> None:
    """Raise FungiError if a source has fewer rows than a computation (`purpose`) needs."""
    if len(source) < at_least:
        raise FungiError(
            f"{purpose} needs at least {counted(at_least, 'row')}, but there are only {len(source)}. {advice}"
        )
