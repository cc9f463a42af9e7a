"""From a batch of prepared views to features: the one way, for the stages and for the library.

Features that see the same views through the same engine share the forward. Whether numbers are finite is noted on the
device batch by batch, and asked for once for many: an answer has to wait for the device.
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
from fungi.runtime.device import shielded
from fungi.runtime.log import expect_parts, progress
from fungi.views.base import ViewGenerator, forwards_of
from fungi.views.loading import Batch, batches, row_batches
from fungi.views.transforms import of_batch


@dataclass(frozen=True)
class Feature:
    """What to compute of every sample: the embedding of its only view (no loss), or the gradients of a loss."""

    name: str
    views: ViewGenerator
    engine: GradientEngine
    loss: Loss | None = None


Computed = dict[str, dict[str, Float[Tensor, "b p"]]]
"""Feature -> array (target, or `embeddings`) -> rows, float32 on the device."""


@shielded()
def compute(batch: Batch, features: Sequence[Feature]) -> Computed:
    """Compute all features of one batch, in their order; features of one call have different names."""
    computed: Computed = {}
    groups: dict[Any, list[Feature]] = {}
    for feature in features:
        groups.setdefault((feature.views.identity, id(feature.engine)), []).append(feature)
    views_in_all = sum(sharing[0].views.n_views for sharing in groups.values())
    expect_parts(views_in_all * length(batch[features[0].views.identity]))
    for sharing in groups.values():
        engine, prepared = sharing[0].engine, batch[sharing[0].views.identity]
        views = of_batch(sharing[0].views, prepared)
        losses = {feature.name: feature.loss for feature in sharing if feature.loss is not None}
        if losses:
            extracted = engine.extract(prepared, views, losses)
            embeddings, gradients = extracted.embeddings, extracted.gradients
        else:
            embeddings, gradients = engine.embed(prepared, views), {}
        for feature in sharing:
            computed[feature.name] = gradients.get(feature.name) or {EMBEDDINGS: embeddings[:, 0]}
    return {feature.name: computed[feature.name] for feature in features}


def forwards_per_sample(features: Sequence[Feature]) -> float:
    """Return the forwards of full input size per sample; features that see the same views share them.

    Smaller views count by their area (`forwards_of`).
    """
    return sum({feature.views.identity: forwards_of(feature.views) for feature in features}.values())


def embedding_feature(embedding: GradientEngine, shared: GradientEngine | None, views: ViewGenerator) -> Feature:
    """Return the embedding, in float32 for evaluation (spec vision 7.1).

    It comes from the engine of the gradients where that computes in float32, and so from their forward where one of
    them sees the same views; else from `embedding`, an engine of its own.
    """
    engine = shared if shared is not None and shared.dtype == torch.float32 else embedding
    return Feature(EMBEDDINGS, views, engine)


class FiniteCheck:
    """Notes which rows of computed features are finite, without waiting for the device before it is asked."""

    def __init__(self) -> None:
        self._finite: dict[str, list[Tensor]] = {}

    def look(self, computed: Computed) -> None:
        """Note the rows of one more batch."""
        for name, arrays in computed.items():
            rows = torch.stack([torch.isfinite(values).all(dim=1) for values in arrays.values()])
            self._finite.setdefault(name, []).append(rows.all(dim=0))

    def bad_rows(self) -> dict[str, list[int]]:
        """Feature -> rows that are not finite, counted from the first batch; features without any are left out."""
        if not self._finite:
            return {}
        noted = torch.stack([torch.cat(rows) for rows in self._finite.values()]).cpu()  # [features n]
        bad = {name: torch.nonzero(~rows).flatten().tolist() for name, rows in zip(self._finite, noted, strict=True)}
        return {name: rows for name, rows in bad.items() if rows}


@shielded()
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
    """Embeddings of the views of all samples, for supporting data; see `batches` for the arguments."""
    rows = row_batches(0, len(samples), batch_size)
    loaded = batches(samples, [views], rows, seed=seed, num_workers=num_workers, by_content=by_content)
    prepared = (batch[views.identity] for batch in progress(loaded, list(map(len, rows)), label=label))
    return torch.cat([engine.embed(batch, of_batch(views, batch)) for batch in prepared])
