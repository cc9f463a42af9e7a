"""Random features instead of extracted ones: files for evaluations, and scores for ablations."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fungi.ablations.variations import SPLITS, Variation, VariationRunner
from fungi.commands import COMMANDS
from fungi.data.base import resolve_dataset
from fungi.extraction.features import find_layers, require_options
from fungi.reproduction.plan import Step
from fungi.runtime.seeds import numpy_generator
from fungi.store.layout import EMBEDDINGS
from fungi.store.reading import FeatureArray
from tests.evaluation.feature_folder import LAYER, PROVENANCE, write_array

DIM = 12


def write_features(step: Step) -> None:
    """Write the files of an extraction with random values, for the rows and labels of its dataset.

    The seed, the feature and the split determine the values, so no two files have the same values.
    """
    settings = COMMANDS[step.command].parse(step.flags)
    dataset = resolve_dataset(settings.dataset, settings.data_dir)
    backbone = settings.backbone.partition("=")[0]
    for split in settings.split or SPLITS:
        samples = dataset.open_split(split, settings.data_dir)
        for feature in step.features:
            values = numpy_generator(settings.seed, feature, split).normal(size=(len(samples), DIM))
            provenance = replace(
                PROVENANCE,
                feature=feature,
                dataset=dataset.name,
                split=split,
                dataset_fingerprint=samples.fingerprint(),
                backbone=backbone,
                seed=settings.seed,
            )
            path = settings.layout.features(feature, dataset.name, backbone, split)
            if feature == EMBEDDINGS:
                write_array(path, EMBEDDINGS, values, provenance=provenance, targets=samples.targets)
            else:
                write_array(path, "attn_proj", values, provenance=provenance, layer=LAYER)


def replace_measurements(patch: pytest.MonkeyPatch) -> None:
    """Replace extraction and scores of ablations by random values. Variations, options, layers and tables stay real."""
    scores = np.random.default_rng(0)

    def variation(runner: VariationRunner, label: str, seed: int, **changes: Any) -> Variation:
        settings = runner._varied_context(label, seed, changes).settings
        require_options(settings)
        layers = [target.name for target in find_layers(runner.context, settings.layer, bias=settings.bias)]
        has_several_layers = len(layers) > 1
        names = [
            f"{objective}@{layer}" if has_several_layers else objective
            for objective in settings.objective
            for layer in layers
        ]
        return _without_values(names)

    def score(runner: VariationRunner | None, features: Variation, names: list[str], *_: Any) -> float:
        assert names
        assert set(names) <= set(features.arrays["train"])
        return scores.random()

    patch.setattr(VariationRunner, "gradients", variation)
    patch.setattr(VariationRunner, "embeddings", lambda _: _without_values([EMBEDDINGS]))
    patch.setattr(VariationRunner, "score", score)
    patch.setattr(VariationRunner, "queries_per_second", partial(score, None))
    for name in ("images_per_second", "milliseconds_to_project"):
        patch.setattr(VariationRunner, name, lambda *_, **__: scores.random())
    patch.setattr(VariationRunner, "milliseconds_of_pca", lambda *_: tuple(scores.random(2).tolist()))


def _without_values(names: list[str]) -> Variation:
    """Return a variation with these names of features. Its arrays have no files, because no test reads them."""
    arrays = {name: FeatureArray(path=Path(), key=name, rows=1, dim=1, provenance=None, layer=None) for name in names}
    return Variation(dict.fromkeys(SPLITS, arrays))
