"""PCA of the library's features: the one of the evaluations, fitted on one matrix."""

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.combine.pca import Reducer, Reduction
from fungi.combine.source import ArrayInMemory, FeatureSource
from fungi.runtime.log import logger


def fit_reduction(features: Float[Tensor, "n f"], dim: int, device: torch.device) -> Reduction:
    """A reduction of features, which are taken as they are (their parts are normalised already)."""
    array = ArrayInMemory(features.float().cpu().numpy())
    source = FeatureSource({"features": array}, unnormalized=frozenset({"features"}))
    reduction = Reducer(source, dim, device).fit(("features",))
    if reduction.skipped:
        logger.warning(f"no PCA: {reduction.skipped}")
    return reduction
