"""PCA of every combination from one pass over the train rows.

Centred features x `[n f]` of all blocks together give one Gram matrix G = x^T x `[f f]`, summed in float64. A
combination's covariance is the sub-block of G for its columns, and its principal directions are the leading
eigenvectors w `[f r]` of that sub-block. With fewer rows than columns the same directions come from K = x x^T `[n n]`:
K u = s^2 u  =>  w = x^T u / s. Centred, not whitened: scikit-learn's `PCA(svd_solver="full")` up to the signs of the
directions, which change no distance and no inner product.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from fungi.combine.eigen import checked_eigh, checked_share
from fungi.combine.source import Blocks, FeatureSource
from fungi.runtime.precision import full_precision


def why_no_pca(pca_dim: int, rows: int, features: int) -> str | None:
    """Return the reason why features stay as they are; None where PCA reduces (strictly, spec vision 9.1)."""
    if pca_dim >= features:
        return f"pca_dim {pca_dim} is not smaller than the feature size {features}"
    if pca_dim >= rows:
        return f"pca_dim {pca_dim} is not smaller than the {rows} rows it would be fitted on"
    return None


@dataclass(frozen=True)
class Reduction:
    """Blocks of a combination -> one matrix: concatenated, then reduced where PCA applies.

    weights: feature -> `[d r]`, empty where PCA does not apply; offset: `[r]`, the projected mean.
    skipped: why PCA does not apply. explained_variance: share kept, 1 without PCA.
    pca_dim: number of components in the settings; `dim` is smaller where some directions have no variance.
    """

    names: tuple[str, ...]
    dim: int
    weights: dict[str, Float32[Tensor, "d r"]]
    offset: Float32[Tensor, " r"]
    skipped: str | None
    explained_variance: float
    pca_dim: int

    @full_precision()
    def __call__(self, block: Blocks, device: torch.device) -> Float32[Tensor, "b r"]:
        """Blocks `[b d]` of the combination -> `[b r]` on a device."""
        if not self.weights:
            return torch.cat([block[name].to(device) for name in self.names], dim=1)
        reduced = (-self.offset).expand(block[self.names[0]].shape[0], -1)
        for name in self.names:
            reduced = torch.addmm(reduced, block[name].to(device), self.weights[name])
        return reduced

    def describe(self) -> dict[str, object]:
        """Return a description of the reduction for the result."""
        if self.skipped:
            return {"applied": False, "reason": self.skipped, "dim": self.dim}
        return {"applied": True, "dim": self.dim, "explained_variance": self.explained_variance}


class Reducer:
    """Fits the reduction of any combination of a source's features, on that source's rows alone."""

    def __init__(self, train: FeatureSource, pca_dim: int, device: torch.device | None = None) -> None:
        self.train = train
        self.pca_dim = pca_dim
        self.device = device or torch.device("cpu")

    def fit(self, names: Sequence[str]) -> Reduction:
        """Return the reduction of a combination. Only train rows take part."""
        features = self.train.dim_of(names)
        skipped = why_no_pca(self.pca_dim, len(self.train), features)
        if skipped:
            nothing = torch.zeros(0, device=self.device)
            return Reduction(tuple(names), features, {}, nothing, skipped, 1.0, features)
        if len(self.train) < features:
            parts = [torch.cat([block[name] for name in names], dim=1) for _, block in self.train.blocks(names)]
            rows = torch.cat(parts).to(self.device, torch.float64)
            mean, directions, share = _from_rows(rows, self.pca_dim)
        else:
            mean, directions, share = self._from_gram(names)
        sizes = [self.train.dims[name] for name in names]
        weights = dict(zip(names, (part.float() for part in directions.split(sizes)), strict=True))
        offset = (mean @ directions).float()
        return Reduction(tuple(names), directions.shape[1], weights, offset, None, share, self.pca_dim)

    @cached_property
    def moments(self) -> tuple[Float64[Tensor, " f"], Float64[Tensor, "f f"]]:
        """Mean and centred Gram matrix of all features side by side: the one pass over the data."""
        names, rows = self.train.names, len(self.train)
        shift: Tensor | None = None
        for _, block in self.train.blocks(names):
            wide = torch.cat([block[name] for name in names], dim=1).to(self.device, torch.float64)  # [b f]
            if shift is None:
                # Any shift near the mean does: it keeps the sums small, so that no digits cancel at the end.
                shift = wide.mean(dim=0)
                total, gram = torch.zeros_like(shift), wide.new_zeros(shift.numel(), shift.numel())
            wide -= shift
            total += wide.sum(dim=0)
            gram.addmm_(wide.T, wide)  # [f b] [b f] -> [f f]
        assert shift is not None, "a split has rows"
        gram -= torch.outer(total, total) / rows
        return shift + total / rows, gram

    def _from_gram(self, names: Sequence[str]) -> "_Fit":
        columns = self._columns(names)
        mean, gram = self.moments
        spectrum, vectors = checked_eigh(gram[columns][:, columns])
        kept = _with_variance(spectrum, self.pca_dim)
        return mean[columns], vectors[:, kept], checked_share(spectrum[kept], spectrum)

    def _columns(self, names: Sequence[str]) -> Tensor:
        starts, start = {}, 0
        for name in self.train.names:
            starts[name] = start
            start += self.train.dims[name]
        parts = [torch.arange(starts[name], starts[name] + self.train.dims[name]) for name in names]
        return torch.cat(parts).to(self.device)


_Fit = tuple[Float64[Tensor, " f"], Float64[Tensor, "f r"], float]


def _from_rows(rows: Float64[Tensor, "n f"], pca_dim: int) -> _Fit:
    mean = rows.mean(dim=0)
    centred = rows - mean
    spectrum, vectors = checked_eigh(centred @ centred.T)  # [n n]
    kept = _with_variance(spectrum, pca_dim)
    directions = centred.T @ vectors[:, kept] / spectrum[kept].sqrt()  # [f n] [n r] -> [f r]
    return mean, directions, checked_share(spectrum[kept], spectrum)


def _with_variance(spectrum: Float64[Tensor, " m"], pca_dim: int) -> Tensor:
    """Return the places of the leading eigenvalues, largest first, without those that are zero up to rounding."""
    smallest = spectrum[-1] * spectrum.numel() * torch.finfo(spectrum.dtype).eps
    leading = torch.arange(spectrum.numel() - 1, spectrum.numel() - 1 - pca_dim, -1, device=spectrum.device)
    return leading[spectrum[leading] > smallest]


def reduced_blocks(
    source: FeatureSource, reduction: Reduction, device: torch.device
) -> Iterator[tuple[slice, Float32[Tensor, "b r"]]]:
    """Yield the combined, reduced row blocks of a split, in order."""
    for place, block in source.blocks(reduction.names):
        yield place, reduction(block, device)


def repeatable_blocks(
    source: FeatureSource, reduction: Reduction, device: torch.device
) -> Callable[[], Iterable[tuple[slice, Float32[Tensor, "b r"]]]]:
    """Return `reduced_blocks` for several passes: kept if the source is kept, computed again if it is streamed."""
    if not source.stays_in_memory:
        return lambda: reduced_blocks(source, reduction, device)
    kept = list(reduced_blocks(source, reduction, device))
    return lambda: kept


def reduced(source: FeatureSource, reduction: Reduction, device: torch.device) -> Float[Tensor, "n r"]:
    """Return all rows of a split, combined and reduced."""
    rows = torch.empty(len(source), reduction.dim, device=device)
    for place, block in reduced_blocks(source, reduction, device):
        rows[place] = block
    return rows
