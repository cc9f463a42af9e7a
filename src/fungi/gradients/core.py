"""Compute features from a batch of prepared views, for the commands and for the library.

Features with the same views and the same engine share a forward pass. The result of the check for finite numbers stays
on the device. The result is read once for many batches, because reading has to wait for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.data.base import Samples
from fungi.gradients.engine import GradientEngine, Loss
from fungi.gradients.parts import length
from fungi.objectives import EMBEDDINGS
from fungi.runtime.device import default_torch_settings
from fungi.runtime.log import expect_parts, progress
from fungi.views.base import ViewGenerator, forwards_of
from fungi.views.loading import Batch, batches, row_batches
from fungi.views.transforms import with_views_of_batch


@dataclass(frozen=True)
class Feature:
    """A feature of every sample: the gradients of a loss. Without a loss, the feature is the embedding of a view."""

    name: str
    views: ViewGenerator
    engine: GradientEngine
    loss: Loss | None = None


FeatureRows = dict[str, dict[str, Float[Tensor, "b p"]]]
"""Name of a feature -> name of an array (target, or `embeddings`) -> rows, float32 on the device."""


@default_torch_settings()
def compute(batch: Batch, features: Sequence[Feature]) -> FeatureRows:
    """Return the rows of all features of a batch, in the order of the features. Names of features have to differ."""
    rows: FeatureRows = {}
    groups: dict[Any, list[Feature]] = {}
    for feature in features:
        groups.setdefault((feature.views.identity, id(feature.engine)), []).append(feature)
    n_views = sum(group[0].views.n_views for group in groups.values())
    expect_parts(n_views * length(batch[features[0].views.identity]))
    for group in groups.values():
        engine, prepared = group[0].engine, batch[group[0].views.identity]
        views = with_views_of_batch(group[0].views, prepared)
        losses = {feature.name: feature.loss for feature in group if feature.loss is not None}
        if losses:
            output = engine.extract(prepared, views, losses)
            embeddings, gradients = output.embeddings, output.gradients
        else:
            embeddings, gradients = engine.embed(prepared, views), {}
        for feature in group:
            is_embedding = feature.loss is None
            rows[feature.name] = {EMBEDDINGS: embeddings[:, 0]} if is_embedding else gradients[feature.name]
    return {feature.name: rows[feature.name] for feature in features}


def forwards_per_sample(features: Sequence[Feature]) -> float:
    """Return the number of forward passes per sample. Features with the same views share passes.

    A view that is smaller than the input counts as its share of the area (`forwards_of`).
    """
    return sum({feature.views.identity: forwards_of(feature.views) for feature in features}.values())


def embedding_feature(embedding: GradientEngine, shared: GradientEngine | None, views: ViewGenerator) -> Feature:
    """Return the embedding feature, which is computed in float32 (spec vision 7.1).

    shared: engine of the gradients. If this engine computes in float32, it also computes the embedding. The embedding
        then shares a forward pass with gradients of the same views.
    embedding: engine that computes the embedding in all other cases.
    """
    if shared is not None and shared.dtype == torch.float32:
        return Feature(EMBEDDINGS, views, shared)
    return Feature(EMBEDDINGS, views, embedding)


class FiniteCheck:
    """Record of each row of each feature: whether the row is finite. Only `bad_rows` waits for the device."""

    def __init__(self) -> None:
        self._finite: dict[str, list[Tensor]] = {}

    def add(self, feature_rows: FeatureRows) -> None:
        """Add the rows of a batch."""
        for name, arrays in feature_rows.items():
            is_finite = torch.stack([torch.isfinite(values).all(dim=1) for values in arrays.values()])
            self._finite.setdefault(name, []).append(is_finite.all(dim=0))

    def bad_rows(self) -> dict[str, list[int]]:
        """Return feature -> rows that are not finite. Features without such rows are left out.

        Rows are counted from the first batch.
        """
        if not self._finite:
            return {}
        finite = torch.stack([torch.cat(batches) for batches in self._finite.values()]).cpu()  # [features n]
        bad = {name: torch.nonzero(~rows).flatten().tolist() for name, rows in zip(self._finite, finite, strict=True)}
        return {name: rows for name, rows in bad.items() if rows}


@default_torch_settings()
def embed_samples(
    engine: GradientEngine,
    samples: Samples,
    views: ViewGenerator,
    *,
    seed: int,
    batch_size: int,
    label: str,
    num_workers: int = 0,
    by_content: bool = False,
) -> Float[Tensor, "n v d"]:
    """Return the embeddings of the views of all samples, for supporting data.

    label: name of this step in the progress display. seed, num_workers, by_content: as in `batches`.
    """
    rows = row_batches(0, len(samples), batch_size)
    loaded = batches(samples, [views], rows, seed=seed, num_workers=num_workers, by_content=by_content)
    prepared = (batch[views.identity] for batch in progress(loaded, list(map(len, rows)), label=label))
    return torch.cat([engine.embed(batch, with_views_of_batch(views, batch)) for batch in prepared])
