"""Features of a collection: the workers that decode it, its cost, names of the parts, and a PCA fitted on them."""

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.combine.pca import Reducer, Reduction
from fungi.combine.source import ArrayInMemory, FeatureSource
from fungi.runtime.cores import usable_cores
from fungi.runtime.log import logger

LONG_SECONDS, LARGE_BYTES = 120.0, 2**30
"""Beyond these the cost is a warning, which Python shows by default; below them, it is information."""


def decoding_workers(num_workers: int, device: torch.device, batches: int) -> int:
    """Return the number of decoding processes: `num_workers`; for -1 none on a CPU, and one per core but one on a GPU.

    A CPU decodes in the main process, whose cores are busy with the model; there are never more workers than batches.
    """
    if num_workers >= 0:
        return num_workers
    return 0 if device.type == "cpu" else min(batches, max(1, usable_cores() - 1))


def objective_name(extractor: object) -> str:
    """Return what an extractor's part of a feature is called: `kl` for a KLGradientsExtractor."""
    name = type(extractor).__name__
    return (name.removesuffix("GradientsExtractor").removesuffix("Extractor") or name).lower()


def say_cost(rows: int, first_batch: Float[Tensor, "b f"], seconds: float) -> None:
    """Log the time and memory of `rows` images. seconds: what the first batch took, decoding included."""
    done, width = first_batch.shape
    expected, size = seconds * rows / done, 4 * rows * width
    level = logging.WARNING if expected > LONG_SECONDS or size > LARGE_BYTES else logging.INFO
    time = f"{expected / 60:.0f} minutes" if expected > LONG_SECONDS else f"{expected:.0f} seconds"
    logger.log(
        level,
        f"{rows:,} images at {done / seconds:.1f} a second: about {time}; features [{rows}, {width}]: "
        f"{size / 1e6:,.1f} MB",
    )


def fit_reduction(features: Float[Tensor, "n f"], dim: int, device: torch.device) -> Reduction:
    """Return the PCA of the evaluations, fitted on features whose parts are normalised already."""
    array = ArrayInMemory(features.float().cpu().numpy())
    source = FeatureSource({"features": array}, unnormalized=frozenset({"features"}))
    reduction = Reducer(source, dim, device).fit(("features",))
    if reduction.skipped:
        logger.warning(f"no PCA: {reduction.skipped}")
    return reduction
