"""PCA of every combination from one pass over the train rows.

The centred features x `[n f]` have the Gram matrix G = x^T x `[f f]`, which is summed in float64. The covariance of a
combination is the submatrix of G for its columns. Its principal directions are the leading eigenvectors w `[f r]` of
this submatrix. If there are fewer rows than columns, the same directions are computed from K = x x^T `[n n]`:
K u = s^2 u  =>  w = x^T u / s. Features are centred, not whitened. The result is equal to `PCA(svd_solver="full")` of
scikit-learn, except for the signs of the directions, which do not change distances and inner products.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from fungi.combine.eigen import checked_eigh, checked_share
from fungi.combine.source import Block, FeatureSource
from fungi.runtime.precision import full_precision


def pca_skip_reason(pca_dim: int, rows: int, features: int) -> str | None:
    """Return the reason to skip PCA; None if `pca_dim` is smaller than `rows` and `features` (spec vision 9.1)."""
    if pca_dim >= features:
        return f"pca_dim {pca_dim} is not smaller than the feature size {features}"
    if pca_dim >= rows:
        return f"pca_dim {pca_dim} is not smaller than the {rows} train rows"
    return None


@dataclass(frozen=True)
class Reduction:
    """Function that concatenates the features of a combination, and reduces them by PCA.

    dim: size of the result.
    weights: feature -> `[d r]`; empty if PCA is skipped. offset: the projected mean.
    skipped: the reason to skip PCA; None if PCA is applied. explained_variance: share of the variance; 1 without PCA.
    pca_dim: number of components in the settings, or `dim` without PCA. If some directions have no variance, `dim` is
        smaller.
    """

    names: tuple[str, ...]
    dim: int
    weights: dict[str, Float32[Tensor, "d r"]]
    offset: Float32[Tensor, " r"]
    skipped: str | None
    explained_variance: float
    pca_dim: int

    @full_precision()
    def __call__(self, block: Block, device: torch.device) -> Float32[Tensor, "b r"]:
        """Return the reduced rows of a block, on a device."""
        if not self.weights:
            return torch.cat([block[name].to(device) for name in self.names], dim=1)
        reduced_rows = (-self.offset).expand(block[self.names[0]].shape[0], -1)
        for name in self.names:
            reduced_rows = torch.addmm(reduced_rows, block[name].to(device), self.weights[name])
        return reduced_rows

    def describe(self) -> dict[str, object]:
        """Return a description of the reduction for the result."""
        if self.skipped:
            return {"applied": False, "reason": self.skipped, "dim": self.dim}
        return {"applied": True, "dim": self.dim, "explained_variance": self.explained_variance}


class Reducer:
    """Factory of reductions, which are fitted on the train rows.

    pca_dim: number of principal components. device: where they are computed; None means the CPU.
    """

    def __init__(self, train: FeatureSource, pca_dim: int, device: torch.device | None = None) -> None:
        self.train = train
        self.pca_dim = pca_dim
        self.device = device or torch.device("cpu")

    def fit(self, names: Sequence[str]) -> Reduction:
        """Return the reduction of a combination, fitted on the train rows."""
        features = self.train.dim_of(names)
        skipped = pca_skip_reason(self.pca_dim, len(self.train), features)
        if skipped:
            no_offset = torch.zeros(0, device=self.device)
            return Reduction(tuple(names), features, {}, no_offset, skipped, 1.0, features)
        if len(self.train) < features:
            blocks = [torch.cat([block[name] for name in names], dim=1) for _, block in self.train.blocks(names)]
            rows = torch.cat(blocks).to(self.device, torch.float64)  # [n f]
            mean, directions, share = _fit_rows(rows, self.pca_dim)
        else:
            mean, directions, share = self._fit_gram(names)
        sizes = [self.train.dims[name] for name in names]
        weights = dict(zip(names, (part.float() for part in directions.split(sizes)), strict=True))
        offset = (mean @ directions).float()
        return Reduction(tuple(names), directions.shape[1], weights, offset, None, share, self.pca_dim)

    @cached_property
    def moments(self) -> tuple[Float64[Tensor, " f"], Float64[Tensor, "f f"]]:
        """Mean and centred Gram matrix of all features, from one pass over the data."""
        names, rows = self.train.names, len(self.train)
        shift: Tensor | None = None
        for _, block in self.train.blocks(names):
            x = torch.cat([block[name] for name in names], dim=1).to(self.device, torch.float64)  # [b f]
            if shift is None:
                # If all rows are shifted by about their mean, the sums stay small and lose no digits by cancellation.
                shift = x.mean(dim=0)
                total, gram = torch.zeros_like(shift), x.new_zeros(shift.numel(), shift.numel())
            x -= shift
            total += x.sum(dim=0)
            gram.addmm_(x.T, x)  # [f b] [b f] -> [f f]
        assert shift is not None, "a split has rows"
        gram -= torch.outer(total, total) / rows
        return shift + total / rows, gram

    def _fit_gram(self, names: Sequence[str]) -> "_Fit":
        """Return mean, directions and explained variance of a combination, from the Gram matrix."""
        columns = self._columns(names)
        mean, gram = self.moments
        spectrum, vectors = checked_eigh(gram[columns][:, columns])
        leading = _leading_eigenvalues(spectrum, self.pca_dim)
        return mean[columns], vectors[:, leading], checked_share(spectrum[leading], spectrum)

    def _columns(self, names: Sequence[str]) -> Tensor:
        """Return the columns of some features among the columns of all features."""
        starts, start = {}, 0
        for name in self.train.names:
            starts[name] = start
            start += self.train.dims[name]
        parts = [torch.arange(starts[name], starts[name] + self.train.dims[name]) for name in names]
        return torch.cat(parts).to(self.device)


_Fit = tuple[Float64[Tensor, " f"], Float64[Tensor, "f r"], float]
"""Mean, directions, explained variance."""


def _fit_rows(rows: Float64[Tensor, "n f"], pca_dim: int) -> _Fit:
    """Return mean, directions and explained variance, if there are fewer rows than columns."""
    mean = rows.mean(dim=0)
    centred = rows - mean
    spectrum, vectors = checked_eigh(centred @ centred.T)  # [n n]
    leading = _leading_eigenvalues(spectrum, pca_dim)
    directions = centred.T @ vectors[:, leading] / spectrum[leading].sqrt()  # [f n] [n r] -> [f r]
    return mean, directions, checked_share(spectrum[leading], spectrum)


def _leading_eigenvalues(spectrum: Float64[Tensor, " size"], pca_dim: int) -> Tensor:
    """Return the indices of the largest eigenvalues, in descending order of the eigenvalues.

    spectrum: eigenvalues, ascending. Eigenvalues that are zero up to rounding errors are left out.
    """
    size = spectrum.numel()
    rounding_error = spectrum[-1] * size * torch.finfo(spectrum.dtype).eps
    largest = torch.arange(size - 1, size - 1 - pca_dim, -1, device=spectrum.device)
    return largest[spectrum[largest] > rounding_error]


def reduced_blocks(
    source: FeatureSource, reduction: Reduction, device: torch.device
) -> Iterator[tuple[slice, Float32[Tensor, "b r"]]]:
    """Yield (slice of rows, combined and reduced rows) for each block of a split, in order."""
    for rows, block in source.blocks(reduction.names):
        yield rows, reduction(block, device)


def repeatable_blocks(
    source: FeatureSource, reduction: Reduction, device: torch.device
) -> Callable[[], Iterable[tuple[slice, Float32[Tensor, "b r"]]]]:
    """Return a function that returns the `reduced_blocks` at each call.

    If the source fits into memory, the blocks are kept. Otherwise, they are computed again at each call.
    """
    if not source.fits_in_memory:
        return lambda: reduced_blocks(source, reduction, device)
    blocks = list(reduced_blocks(source, reduction, device))
    return lambda: blocks


def reduced(source: FeatureSource, reduction: Reduction, device: torch.device) -> Float[Tensor, "n r"]:
    """Return the combined and reduced rows of a split."""
    features = torch.empty(len(source), reduction.dim, device=device)
    for rows, block in reduced_blocks(source, reduction, device):
        features[rows] = block
    return features
