"""The features of a split as L2-normalised blocks of rows, read once if they fit into memory, otherwise streamed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Integer
from torch import Tensor

from fungi.combine.health import FeatureHealth
from fungi.errors import FungiError, counted

Blocks = dict[str, Float[Tensor, "b d"]]
BLOCK_ROWS = 8192
MEMORY_BYTES = 4 << 30


@runtime_checkable
class ReadableArray(Protocol):
    """An array in a file or in memory that a source reads."""

    @property
    def rows(self) -> int:
        """The number of rows n."""

    @property
    def dim(self) -> int:
        """The number of columns d."""

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
    """Blocks of rows of the named features of a split.

    arrays: feature name -> array, all with the same rows in the same order.
    rows: the rows to use, ascending; by default all rows.
    unnormalized: features that are not normalised; all others are L2-normalised per row (spec vision 9.1).
    block_rows: number of rows to read in one step.
    memory_bytes: limit for keeping the chosen rows in memory, in float32.
    """

    def __init__(
        self,
        arrays: Mapping[str, ReadableArray],
        rows: Integer[np.ndarray, " s"] | None = None,
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
        self._kept: Blocks = {}
        self._warnings: dict[str, list[str]] = {}
        self.dims = {name: array.dim for name, array in arrays.items()}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all features."""
        return tuple(self._arrays)

    @property
    def fits_in_memory(self) -> bool:
        """Whether all chosen rows fit into memory, so that they are read only once."""
        return len(self) * sum(self.dims.values()) * 4 <= self._memory_bytes

    def dim_of(self, names: Sequence[str]) -> int:
        """Return the size of the concatenation of these features."""
        return sum(self.dims[name] for name in names)

    def warnings(self) -> list[str]:
        """Return warnings about the rows that were read."""
        return [text for name in self._arrays for text in self._warnings.get(name, [])]

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[slice, Blocks]]:
        """Yield blocks of the chosen rows in order: (slice of the chosen rows, feature -> `[b d]`)."""
        if self.fits_in_memory:
            self._keep(names)
            for start in range(0, len(self), self._block_rows):
                place = slice(start, min(start + self._block_rows, len(self)))
                yield place, {name: self._kept[name][place] for name in names}
        else:
            yield from self._streamed(names)

    def _keep(self, names: Sequence[str]) -> None:
        missing = [name for name in names if name not in self._kept]
        if not missing:
            return
        arrays = {name: torch.empty(len(self), self.dims[name]) for name in missing}
        for place, block in self._streamed(missing):
            for name in missing:
                arrays[name][place] = block[name]
        self._kept |= arrays

    def _streamed(self, names: Sequence[str]) -> Iterator[tuple[slice, Blocks]]:
        """Yield blocks from the files in file order: read contiguous rows, then select the chosen rows."""
        health = {name: FeatureHealth(str(self._arrays[name])) for name in names}
        total = self._arrays[names[0]].rows
        for start in range(0, total, self._block_rows):
            stop = min(start + self._block_rows, total)
            place = slice(*np.searchsorted(self._rows, (start, stop)).tolist())
            if place.start == place.stop:
                continue
            rows = self._rows[place]
            yield place, {name: self._read(name, start, stop, rows, health[name]) for name in names}
        for name in names:
            self._warnings[name] = health[name].close()

    def _read(
        self, name: str, start: int, stop: int, rows: Integer[np.ndarray, " b"], health: FeatureHealth
    ) -> Float[Tensor, "b d"]:
        rows_read = torch.from_numpy(self._arrays[name].read(start, stop))
        if len(rows) < stop - start:
            rows_read = rows_read[torch.from_numpy(rows - start)]
        health.add(rows_read, torch.from_numpy(rows))
        return rows_read if name in self._unnormalized else l2_normalized(rows_read)


def l2_normalized(features: Float32[Tensor, "b d"]) -> Float32[Tensor, "b d"]:
    """Return rows of unit norm; rows of zeros do not change. Norms are float64, because gradients can be tiny."""
    wide = features.double()
    norms = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    return (wide / torch.where(norms > 0, norms, torch.ones_like(norms))).float()


def require_rows(source: FeatureSource, at_least: int, what: str, way_out: str) -> None:
    """Raise FungiError if a source has fewer rows than a computation (`what`) needs."""
    if len(source) < at_least:
        raise FungiError(
            f"{what} needs at least {counted(at_least, 'row')}, but there are only {len(source)}. {way_out}"
        )
