"""Refusals: which feature arrays may be joined, judged by their provenances.

Two directions, two sets of facts that have to be equal:

* side by side - different features of one split, concatenated: the same rows of the same dataset, seen by the same
  weights; gradients also of the same layer through the same projection;
* one above the other - one feature of two splits, where one is fitted and the other scored: the same weights, layer,
  projection, objective, heads.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fungi.errors import RefusedJoinError
from fungi.store.differences import differing_parts, shortened
from fungi.store.reading import FeatureArray


@dataclass(frozen=True)
class Fact:
    """A fact that has to be equal. of: function that returns it; way_out: what the user can do if it differs."""

    name: str
    of: Callable[[FeatureArray], Any]
    way_out: str = "Extract both with the same settings."


def _from_provenance(field: str) -> Callable[[FeatureArray], Any]:
    return lambda array: None if array.provenance is None else getattr(array.provenance, field)


def _from_layer(field: str) -> Callable[[FeatureArray], Any]:
    return lambda array: None if array.layer is None else getattr(array.layer, field)


def _seed_of_gradients(array: FeatureArray) -> int | None:
    """Embeddings involve no randomness, so that their seed joins with any."""
    return None if array.provenance is None or array.layer is None else array.provenance.seed


def _drawn_weights(array: FeatureArray) -> bool:
    """Return whether the weights were drawn from the run's seed, so that they differ as seeds do."""
    return array.provenance is not None and array.provenance.weights_source.startswith("random")


_SAME_MODEL = (
    Fact("backbone", _from_provenance("backbone")),
    Fact("backbone weights", _from_provenance("weights_hash")),
    Fact("profile", _from_provenance("profile")),
    Fact("dataset", _from_provenance("dataset")),
)
_SAME_GRADIENT = (
    Fact("layer", _from_layer("layer"), "Choose arrays of one layer with --layer-key or FILE:KEY."),
    Fact("bias", _from_layer("bias")),
    Fact("projection", _from_layer("projection_hash"), "Pass the same --projection-matrix to both extractions."),
)
SIDE_BY_SIDE = (
    *_SAME_MODEL,
    Fact("input", _from_provenance("input")),
    Fact("split", _from_provenance("split")),
    Fact(
        "dataset fingerprint",
        _from_provenance("dataset_fingerprint"),
        "The rows are not the same samples in one order, or their content was changed in between.",
    ),
    Fact("row count", lambda array: array.rows, "They have to hold the same samples in the same order."),
    *_SAME_GRADIENT,
)
ONE_ABOVE_THE_OTHER = (
    *_SAME_MODEL,
    Fact("feature", _from_provenance("feature")),
    Fact("feature size", lambda array: array.dim),
    Fact("input", _from_provenance("input")),
    Fact(
        "dtype",
        _from_provenance("dtype"),
        "Extract both with the same --dtype, --embedding-precision and --residual-dtype.",
    ),
    *_SAME_GRADIENT,
    Fact("seed", _seed_of_gradients),
    Fact("objective settings", _from_provenance("objective_settings")),
    Fact("supporting data (negatives, prototypes)", _from_provenance("support_hash")),
)

RUN_BESIDE_RUN = (
    Fact("backbone", _from_provenance("backbone")),
    Fact("backbone weights", lambda array: None if _drawn_weights(array) else _from_provenance("weights_hash")(array)),
    Fact("profile", _from_provenance("profile")),
    Fact("dataset", _from_provenance("dataset")),
    Fact("input", _from_provenance("input")),
    Fact("feature size", lambda array: array.dim),
    Fact("layer", _from_layer("layer")),
    Fact("objective settings", _from_provenance("objective_settings")),
)


def check_splits(splits: Mapping[str, Mapping[str, FeatureArray]]) -> None:
    """Raise RefusedJoinError unless the features of all splits may be joined.

    splits: split -> feature name -> array. The same feature names in every split.
    """
    for features in splits.values():
        _check_equal(features.values(), SIDE_BY_SIDE)
    first, *others = splits.values()
    for other in others:
        for name, array in first.items():
            _check_equal([array, other[name]], ONE_ABOVE_THE_OTHER)


def check_runs(runs: Mapping[str, Mapping[str, Mapping[str, FeatureArray]]]) -> None:
    """Raise RefusedJoinError unless the runs are equal extractions with different seeds: a mean of others says nothing.

    runs: root folder -> split -> feature name -> array.
    """
    (first, splits), *others = runs.items()
    for other, others_splits in others:
        for split, features in splits.items():
            here = others_splits.get(split, {})
            if features.keys() != here.keys():
                raise RefusedJoinError(
                    f"features differ: {', '.join(features)} in {first}, {', '.join(here)} in {other} ({split})."
                    " Name those to evaluate with --features."
                )
            for name, array in features.items():
                _check_equal([array, here[name]], RUN_BESIDE_RUN)
    _refuse_copies(runs)


def _refuse_copies(runs: Mapping[str, Mapping[str, Mapping[str, FeatureArray]]]) -> None:
    """Raise RefusedJoinError for two folders whose gradients have the same seed and projection: they are copies."""
    seen: dict[Any, str] = {}
    for root, splits in runs.items():
        features = next(iter(splits.values()))
        origin = tuple(
            (name, array.provenance.seed, array.layer.projection_hash)
            for name, array in features.items()
            if array.provenance and array.layer
        )
        if origin and origin in seen:
            raise RefusedJoinError(
                f"{seen[origin]} and {root} hold the same extraction, of one seed and projection: a deviation over"
                " copies says nothing. Name folders of different seeds."
            )
        seen[origin] = root


def check_targets(rows: int, targets_path: object, array: FeatureArray) -> None:
    """Raise RefusedJoinError if there are more or fewer labels than feature rows."""
    if rows != array.rows:
        raise RefusedJoinError(
            f"row count differs: {rows} in {targets_path}:targets, {array.rows} in {array}."
            " Labels and features have to be of the same split."
        )


def _check_equal(arrays: Iterable[FeatureArray], facts: Iterable[Fact]) -> None:
    """Compare each array with the first array that records the fact; arrays that do not record it are not compared."""
    listed = list(arrays)
    for fact in facts:
        known = [(array, fact.of(array)) for array in listed if fact.of(array) is not None]
        for array, value in known[1:]:
            reference, expected = known[0]
            if value != expected:
                first, second = (shortened(part) for part in differing_parts(expected, value))
                raise RefusedJoinError(
                    f"{fact.name} differs: {first!r} in {reference}, {second!r} in {array}. {fact.way_out}"
                )
