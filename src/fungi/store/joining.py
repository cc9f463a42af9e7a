"""Compare the provenances of feature arrays, to check whether the arrays may be used together.

* Different features of one split are concatenated. They need the same rows, dataset and weights, and gradients need the
  same layer and projection (`SAME_SPLIT`).
* One feature of two splits is fitted on one split and scored on the other. Both splits need the same weights, layer,
  projection, objective and heads (`SAME_FEATURE`).
* Scores of several runs are averaged. The runs need the same settings, but different seeds (`SAME_SETTINGS`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fungi.errors import RefusedJoinError
from fungi.store.differences import differing_parts, shortened
from fungi.store.reading import FeatureArray


@dataclass(frozen=True)
class Fact:
    """A fact that has to be equal for several arrays.

    value_of: function that returns the fact for an array. advice: text for the user if the facts differ.
    """

    name: str
    value_of: Callable[[FeatureArray], Any]
    advice: str = "Extract both with the same settings."


def _from_provenance(field: str) -> Callable[[FeatureArray], Any]:
    """Return a function that returns a field of the provenance of an array; None without a provenance."""
    return lambda array: None if array.provenance is None else getattr(array.provenance, field)


def _from_layer(field: str) -> Callable[[FeatureArray], Any]:
    """Return a function that returns a field of the layer provenance of an array; None for embeddings."""
    return lambda array: None if array.layer is None else getattr(array.layer, field)


def _seed_of_gradients(array: FeatureArray) -> int | None:
    """Return the seed of gradients; None for embeddings, which do not depend on the seed."""
    return None if array.provenance is None or array.layer is None else array.provenance.seed


def _has_random_weights(array: FeatureArray) -> bool:
    """Return whether the weights were drawn from the seed, so that they differ between seeds."""
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
SAME_SPLIT = (
    *_SAME_MODEL,
    Fact("input", _from_provenance("input")),
    Fact("split", _from_provenance("split")),
    Fact(
        "dataset fingerprint",
        _from_provenance("dataset_fingerprint"),
        "The rows are other samples, or in another order, or the content of samples has changed.",
    ),
    Fact("row count", lambda array: array.rows, "Both need the same samples in the same order."),
    *_SAME_GRADIENT,
)
SAME_FEATURE = (
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

SAME_SETTINGS = (
    Fact("backbone", _from_provenance("backbone")),
    Fact(
        "backbone weights",
        lambda array: None if _has_random_weights(array) else _from_provenance("weights_hash")(array),
    ),
    Fact("profile", _from_provenance("profile")),
    Fact("dataset", _from_provenance("dataset")),
    Fact("input", _from_provenance("input")),
    Fact("feature size", lambda array: array.dim),
    Fact("layer", _from_layer("layer")),
    Fact("objective settings", _from_provenance("objective_settings")),
)


def check_splits(splits: Mapping[str, Mapping[str, FeatureArray]]) -> None:
    """Raise RefusedJoinError unless the features of all splits may be joined.

    splits: split -> feature name -> array. All splits have the same feature names.
    """
    for features in splits.values():
        _check_equal(features.values(), SAME_SPLIT)
    first, *others = splits.values()
    for other in others:
        for name, array in first.items():
            _check_equal([array, other[name]], SAME_FEATURE)


def check_runs(runs: Mapping[str, Mapping[str, Mapping[str, FeatureArray]]]) -> None:
    """Raise RefusedJoinError unless the runs are extractions with the same settings and different seeds.

    Otherwise, a mean over the runs would have no meaning.

    runs: root folder -> split -> feature name -> array.
    """
    (first_root, first_splits), *others = runs.items()
    for root, splits in others:
        for split, first_features in first_splits.items():
            features = splits.get(split, {})
            if first_features.keys() != features.keys():
                raise RefusedJoinError(
                    f"features differ: {', '.join(first_features)} in {first_root}, {', '.join(features)} in {root}"
                    f" ({split}). Name the features to evaluate with --features."
                )
            for name, array in first_features.items():
                _check_equal([array, features[name]], SAME_SETTINGS)
    _refuse_copies(runs)


def _refuse_copies(runs: Mapping[str, Mapping[str, Mapping[str, FeatureArray]]]) -> None:
    """Raise RefusedJoinError if two folders contain copies: gradients with the same seed and projection."""
    root_of: dict[Any, str] = {}
    for root, splits in runs.items():
        features = next(iter(splits.values()))
        origin = tuple(
            (name, array.provenance.seed, array.layer.projection_hash)
            for name, array in features.items()
            if array.provenance and array.layer
        )
        if origin and origin in root_of:
            raise RefusedJoinError(
                f"{root_of[origin]} and {root} contain the same extraction, with the same seed and projection. A"
                " standard deviation over copies has no meaning. Name folders of different seeds."
            )
        root_of[origin] = root


def check_targets(rows: int, targets_path: object, array: FeatureArray) -> None:
    """Raise RefusedJoinError if the number of labels differs from the number of feature rows."""
    if rows != array.rows:
        raise RefusedJoinError(
            f"row count differs: {rows} in {targets_path}:targets, {array.rows} in {array}."
            " Labels and features must belong to the same split."
        )


def _check_equal(arrays: Iterable[FeatureArray], facts: Iterable[Fact]) -> None:
    """Raise RefusedJoinError if a fact differs between arrays. Arrays that do not record the fact are not compared."""
    arrays = list(arrays)
    for fact in facts:
        recorded = [(array, fact.value_of(array)) for array in arrays if fact.value_of(array) is not None]
        for array, value in recorded[1:]:
            first_array, first_value = recorded[0]
            if value != first_value:
                # For long values, such as settings, the message has only the parts that differ.
                first_part, other_part = map(shortened, differing_parts(first_value, value))
                raise RefusedJoinError(
                    f"{fact.name} differs: {first_part!r} in {first_array}, {other_part!r} in {array}. {fact.advice}"
                )
