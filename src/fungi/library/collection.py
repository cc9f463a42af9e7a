"""Helpers for the features of a collection of images: decoding processes, cost, names of the parts, and the PCA."""

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.combine.pca import Reducer, Reduction
from fungi.combine.source import ArrayInMemory, FeatureSource
from fungi.errors import counted
from fungi.runtime.cores import usable_cores
from fungi.runtime.log import logger, size_in_words, time_in_words

LONG_SECONDS, LARGE_BYTES = 120.0, 2**30
"""Above these limits the cost is logged as a warning, which Python shows by default; below, as information."""


def decoding_workers(num_workers: int, device: torch.device, batches: int) -> int:
    """Return the number of decoding processes.

    For -1 it is 0 on a CPU, whose cores are busy with the model, and the number of cores minus one on a GPU, but never
    more than the number of batches.
    """
    if num_workers >= 0:
        return num_workers
    return 0 if device.type == "cpu" else min(batches, max(1, usable_cores() - 1))


def objective_name(extractor: object) -> str:
    """Return the name of the feature of an extractor, such as `kl` for a KLGradientsExtractor."""
    name = type(extractor).__name__
    return (name.removesuffix("GradientsExtractor").removesuffix("Extractor") or name).lower()


def log_cost(rows: int, first_batch: Float[Tensor, "b f"], seconds: float) -> None:
    """Log the time and memory for `rows` images. seconds: time of the first batch, decoding included."""
    batch_rows, width = first_batch.shape
    expected, size = seconds * rows / batch_rows, 4 * rows * width
    level = logging.WARNING if expected > LONG_SECONDS or size > LARGE_BYTES else logging.INFO
    time = time_in_words(expected)
    logger.log(
        level,
        f"{counted(rows, 'image')} at {batch_rows / seconds:.1f} a second: about {time}; features [{rows}, {width}]: "
        f"{size_in_words(size)}",
    )


def fit_reduction(features: Float[Tensor, "n f"], dim: int, device: torch.device) -> Reduction:
    """Fit the PCA of the evaluations on features whose parts are already normalised."""
    array = ArrayInMemory(features.float().cpu().numpy())
    source = FeatureSource({"features": array}, unnormalized=frozenset({"features"}))
    reduction = Reducer(source, dim, device).fit(("features",))
    if reduction.skipped:
        logger.warning(f"no PCA: {reduction.skipped}")
    return reduction
