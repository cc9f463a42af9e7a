"""Functions for the features of a collection of images: decoding processes, cost, names of objectives, and PCA."""

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
"""Limits above which the cost is logged as a warning, which Python shows by default. Lower costs are logged as info."""


def decoding_workers(num_workers: int, device: torch.device, batches: int) -> int:
    """Return the number of decoding processes.

    For -1, this is 0 on a CPU, because its cores compute the model. On a GPU, it is the number of cores less one, but
    not more than the number of batches.
    """
    if num_workers >= 0:
        return num_workers
    return 0 if device.type == "cpu" else min(batches, max(1, usable_cores() - 1))


def objective_name(extractor: object) -> str:
    """Return the name of the feature of an extractor, such as `kl` for a KLGradientsExtractor."""
    name = type(extractor).__name__
    return (name.removesuffix("GradientsExtractor").removesuffix("Extractor") or name).lower()


def log_cost(rows: int, first_batch: Float[Tensor, "b f"], seconds: float) -> None:
    """Log the expected time and memory for `rows` images. seconds: time of the first batch, including decoding."""
    batch_rows, width = first_batch.shape
    bytes_per_number = 4  # float32
    expected_seconds, size_in_bytes = seconds * rows / batch_rows, bytes_per_number * rows * width
    level = logging.WARNING if expected_seconds > LONG_SECONDS or size_in_bytes > LARGE_BYTES else logging.INFO
    logger.log(
        level,
        f"{counted(rows, 'image')} at {batch_rows / seconds:.1f} per second: about {time_in_words(expected_seconds)};"
        f" features [{rows}, {width}]: {size_in_words(size_in_bytes)}",
    )


def fit_reduction(features: Float[Tensor, "n f"], dim: int, device: torch.device) -> Reduction:
    """Fit the PCA of the evaluations to features whose parts are already normalised."""
    array = ArrayInMemory(features.float().cpu().numpy())
    source = FeatureSource({"features": array}, unnormalized=frozenset({"features"}))
    reduction = Reducer(source, dim, device).fit(("features",))
    if reduction.skipped:
        logger.warning(f"no PCA: {reduction.skipped}")
    return reduction
