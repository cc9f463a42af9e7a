"""Extract the features of the variations of an ablation, and score combinations of them by kNN.

Each variation has its own folder below `<root>/ablations`. The extraction is the same as for all feature files.
Finished blocks are saved, so an interrupted ablation continues with the next block.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from fungi.ablations.settings import VariationSettings
from fungi.combine.pca import Reducer, Reduction, reduced
from fungi.combine.source import FeatureSource
from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.evaluators.knn import knn_predictions
from fungi.evaluators.metrics import classification_scores
from fungi.extraction.context import StageContext, resolve_context
from fungi.extraction.features import embedding_feature, gradient_features
from fungi.extraction.gradient_settings import GradientSettings
from fungi.extraction.pipeline import extract_split
from fungi.extraction.work import Feature
from fungi.gradients.core import compute
from fungi.gradients.projection import draw_projection
from fungi.gradients.terms import Terms
from fungi.search.neighbours import in_memory
from fungi.store.layout import EMBEDDINGS
from fungi.store.reading import FeatureArray, open_array
from fungi.views.loading import batches

SPLITS = ("train", "test")
ReductionKind = Literal["pca", "none", "binary", "gaussian", "sparse"]


@dataclass(frozen=True)
class FewerRows:
    """Function that opens a split of a dataset and returns `rows` of its rows, evenly spread.

    open: function that opens the full split.
    """

    open: Callable[[Path, str], Samples]
    rows: int

    def __call__(self, data_dir: Path, split: str) -> Samples:
        """Return the evenly spread rows of the split."""
        samples = self.open(data_dir, split)
        rows = np.linspace(0, len(samples) - 1, min(self.rows, len(samples))).round().astype(np.int64)
        return samples.take(rows)


@dataclass(frozen=True)
class Variation:
    """The features of one variation: of the extraction with some settings changed. arrays: split -> name -> array.

    A name is an objective, or `objective@array` if the variation has the gradients of several layers.
    """

    arrays: dict[str, dict[str, FeatureArray]]

    def __or__(self, other: "Variation") -> "Variation":
        """Return the features of both variations together."""
        return Variation({split: self.arrays[split] | other.arrays[split] for split in SPLITS})


class VariationRunner:
    """Extracts and scores the variations of one dataset and backbone."""

    def __init__(self, settings: VariationSettings) -> None:
        self.settings = settings
        context = resolve_context(settings)
        if context.dataset.metric == "map":
            raise FungiError(
                f"dataset {context.dataset.name!r} has no classes, but ablations are scored by kNN accuracy."
                " Choose a dataset for classification."
            )
        if settings.rows:
            fewer_rows = FewerRows(context.dataset.open, settings.rows)
            context = replace(context, dataset=replace(context.dataset, open=fewer_rows, sizes=dict.fromkeys(SPLITS)))
        self.context: StageContext = context
        self.metric = context.dataset.metric

    def provenances(self) -> dict[str, Any]:
        """Return the provenance of data and weights per split, for the result file."""
        return {
            split: {EMBEDDINGS: {"provenance": self.context.base_provenance(split, self.context.open_split(split))}}
            for split in SPLITS
        }

    def embeddings(self) -> Variation:
        """Return the embeddings of both splits; extract them if they are missing."""
        context = self._varied_context("embeddings", self.settings.seed, {})
        self._extract(context, [embedding_feature(context)])
        return self._open(context, {EMBEDDINGS: [EMBEDDINGS]})

    def gradients(self, label: str, seed: int, **changes: Any) -> Variation:
        """Return the gradients of a variation; extract them if they are missing.

        label: name of the folder. changes: settings of the extraction and their values in this variation.
        """
        context = self._varied_context(label, seed, changes)
        assert isinstance(context.settings, GradientSettings)
        features = gradient_features(context.settings, context)
        self._extract(context, features)
        return self._open(context, {feature.name: list(feature.layers) for feature in features})

    def score(
        self, features: Variation, names: Sequence[str], reduction: ReductionKind = "pca", seed: int = 42
    ) -> float:
        """Return the kNN score of a combination of features, in the metric of the dataset.

        seed: seed of a random reduction; PCA does not use it.
        """
        arrays = {split: {name: features.arrays[split][name] for name in names} for split in SPLITS}
        train, test = (self._reduced_rows(arrays, split, reduction, seed) for split in SPLITS)
        labels = {split: self._labels(split) for split in SPLITS}
        predictions = knn_predictions(in_memory(train), labels["train"], test, self.settings.k)
        return classification_scores(predictions, labels["test"])[self.metric]

    def images_per_second(self, label: str, **changes: Any) -> float:
        """Return the speed of the extraction on at most 16 test images, after a warm-up and without decoding.

        The speed is measured for the objective in `changes`. Without changes, it is measured for the embeddings.
        """
        context = self._varied_context(label, self.settings.seed, changes)
        assert isinstance(context.settings, GradientSettings)
        feature = gradient_features(context.settings, context)[0] if changes else embedding_feature(context)
        test_samples = context.open_split("test")
        samples = test_samples.take(range(min(16, len(test_samples))))
        batch = next(batches(samples, [feature.views], [range(len(samples))], seed=self.settings.seed, num_workers=0))
        for _ in range(2):  # the first pass is the warm-up
            start = time.perf_counter()
            arrays = compute(batch, [feature])[feature.name]
            float(next(iter(arrays.values())).sum())  # waits for the device
        return len(samples) / (time.perf_counter() - start)

    def queries_per_second(self, features: Variation, names: Sequence[str]) -> float:
        """Return the speed of kNN on the test rows, after a warm-up, with reduced features in memory."""
        arrays = {split: {name: features.arrays[split][name] for name in names} for split in SPLITS}
        train, test = (self._reduced_rows(arrays, split, "pca", self.settings.seed) for split in SPLITS)
        labels = self._labels("train")
        for _ in range(2):  # the first pass is the warm-up
            start = time.perf_counter()
            knn_predictions(in_memory(train), labels, test, self.settings.k)
        return len(test) / (time.perf_counter() - start)

    def milliseconds_to_project(self, samples: int) -> float:
        """Return the milliseconds to project the gradients of `samples` samples at the first target layer."""
        context = self._varied_context("default", self.settings.seed, {})
        assert isinstance(context.settings, GradientSettings)
        engine = gradient_features(context.settings, context)[0].engine
        target = engine.targets[0]
        outputs, inputs = target.shape
        terms = Terms(  # random terms of one group and one position, because the values do not change the time
            torch.randn(samples, 1, 1, outputs, device=context.device),  # [b g s o]
            torch.randn(samples, 1, 1, inputs - target.bias, device=context.device),  # [b g s i]
            target.bias,
        )
        projector = engine.projectors[target.name]
        contracted = projector.contract(terms)
        return _milliseconds(lambda: projector.project(contracted), repeats=20)

    def milliseconds_of_pca(self, features: Variation, names: Sequence[str]) -> tuple[float, float]:
        """Return the milliseconds to fit a PCA on the train rows, and to reduce these rows, without reading them."""
        source = FeatureSource({name: features.arrays["train"][name] for name in names})
        dim = self.settings.pca_dim or self.context.backbone.spec.pca_dim
        device = self.context.device

        def fit() -> Reduction:
            return Reducer(source, dim, device).fit(names)

        reduction = fit()
        return (
            _milliseconds(lambda: fit().offset, repeats=1),
            _milliseconds(lambda: reduced(source, reduction, device), repeats=1),
        )

    def _varied_context(self, label: str, seed: int, changes: dict[str, Any]) -> StageContext:
        """Return the context of the extraction of a variation, with its folder, seed and changed settings."""
        root = self.settings.root / "ablations" / f"{label}-seed{seed}" / f"rows-{self.settings.rows or 'all'}"
        values = {name: getattr(self.settings, name) for name in GradientSettings.__dataclass_fields__}
        values |= {"root": root, "seed": seed, "with_embeddings": False}
        objectives = changes.get("objective", self.settings.objective)
        # Options (`OBJECTIVE.NAME=VALUE`) of objectives that this variation does not extract would be refused.
        options = [text for text in self.settings.set if text.partition(".")[0] in objectives]
        changes = {**changes, "set": (*options, *changes.get("set", ()))}
        return replace(self.context, settings=GradientSettings(**{**values, **changes}))

    def _extract(self, context: StageContext, features: Sequence[Feature]) -> None:
        for split in SPLITS:
            extract_split(context, split, features)

    def _open(self, context: StageContext, names: dict[str, list[str]]) -> Variation:
        """Return the features of a variation from their files. names: feature -> keys of its arrays."""
        dataset, backbone = context.dataset.name, context.backbone.spec.name
        arrays: dict[str, dict[str, FeatureArray]] = {split: {} for split in SPLITS}
        for split in SPLITS:
            for feature, keys in names.items():
                path = context.settings.layout.features(feature, dataset, backbone, split)
                for key in keys:
                    name = feature if len(keys) == 1 else f"{feature}@{key}"
                    arrays[split][name] = open_array(path, key)
        return Variation(arrays)

    def _labels(self, split: str) -> Integer[np.ndarray, " n"]:
        return self.context.open_split(split).targets

    def _reduced_rows(
        self, arrays: dict[str, dict[str, FeatureArray]], split: str, reduction: ReductionKind, seed: int
    ) -> Float[Tensor, "n r"]:
        """Return the concatenated and reduced rows of a split. PCA is fitted on the train rows.

        arrays: split -> name -> array. seed: seed of a random reduction.
        """
        device = self.context.device
        dim = self.settings.pca_dim or self.context.backbone.spec.pca_dim
        train = FeatureSource(arrays["train"])
        size = train.dim_of(train.names)
        # With as many components as entries, `Reducer` skips PCA.
        pca = Reducer(train, dim if reduction == "pca" else size, device).fit(train.names)
        rows = reduced(FeatureSource(arrays[split]), pca, device)
        if reduction in ("pca", "none") or dim >= size:
            return rows
        matrix = draw_projection(dim, size, kind=reduction, seed=seed).dense(device)
        return rows @ matrix.T * dim**-0.5  # this factor keeps the expected squared length of a row


def _milliseconds(work: Callable[[], Tensor], *, repeats: int) -> float:
    """Return the mean time of `work` over `repeats` calls after a warm-up. The result of `work` is on the device."""
    float(work().sum())  # reading a number waits for the device
    start = time.perf_counter()
    for _ in range(repeats):
        output = work()
    float(output.sum())
    return 1000 * (time.perf_counter() - start) / repeats
