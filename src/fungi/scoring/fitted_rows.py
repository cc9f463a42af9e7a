"""Rows that are scored although the evaluation was fitted on them (DESIGN 3.4): refused unless a flag allows it."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from fungi.errors import FungiError
from fungi.store.foreign import open_any
from fungi.store.reading import FeatureArray

Splits = Mapping[str, Mapping[str, FeatureArray]]
"""Split -> feature -> array; `test` is scored, all others are fitted on (or used to choose lambda)."""

MOST_TWINS = 0.1
"""Share of the scored rows that may be equal to fitted ones. Public datasets have some pictures and texts twice, and
the published numbers count them; a split that holds another has far more."""
_ENTRIES, _STEPS, _BLOCK = 16, 1000, 8192


def seen_rows(splits: Splits) -> dict[str, int]:
    """Split -> how many of the scored rows are among its own; splits without any are left out.

    All are where the file is the same, or the fingerprint of the data; else rows are compared by their features.
    """
    scored = splits.get("test", {})
    counts = {split: _shared(arrays, scored) for split, arrays in splits.items() if split != "test"}
    return {split: count for split, count in counts.items() if count}


def refuse_seen_rows(splits: Splits, scored: Path) -> None:
    """Raise FungiError where more of the scored rows are among the fitted ones than chance explains.

    scored: the file that messages name.
    """
    for split, count in seen_rows(splits).items():
        rows = next(iter(splits["test"].values())).rows
        if count > MOST_TWINS * rows:
            what = "the rows to score" if count == rows else f"{count} of the {rows} rows to score"
            raise FungiError(
                f"{what} ({scored}) are those of the {split} split, which is fitted on: the scores would say nothing of"
                " new rows. Name other rows with --test-split, or ask for it with --score-fitted-rows; tables then"
                " say so."
            )


def of_seen_rows(splits: Splits) -> list[str]:
    """Return warnings about scored rows that were fitted."""
    scored, texts = splits.get("test", {}), []
    for split, count in seen_rows(splits).items():
        rows = next(iter(scored.values())).rows
        what = "the scored rows are" if count == rows else f"{count} of the {rows} scored rows are equal to"
        texts.append(f"{what} those of the {split} split, which was fitted on.")
    return texts


def _shared(fitted: Mapping[str, FeatureArray], scored: Mapping[str, FeatureArray]) -> int:
    if any(_same_rows(fitted[name], array) for name, array in scored.items()):
        return next(iter(scored.values())).rows
    name, array = next(iter(scored.items()))
    return int(np.isin(_of(array), _of(fitted[name])).sum())


def _same_rows(array: FeatureArray, other: FeatureArray) -> bool:
    if array.path.resolve() == other.path.resolve() and array.key == other.key:
        return True
    provenances = (array.provenance, other.provenance)
    return all(provenances) and len({provenance.dataset_fingerprint for provenance in provenances if provenance}) == 1


def _of(array: FeatureArray) -> Integer[np.ndarray, " u"]:
    return _signatures(array.path.resolve(), array.key, array.path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _signatures(path: Path, key: str, modified_ns: int) -> Integer[np.ndarray, " u"]:
    """Return one number for each row that no other row of the array has.

    Rows of the same sample have the same number, but for the few whose last digits, which change with the batch, move
    an entry over a step.
    """
    array = open_any(path, key)
    parts = [_signature(array.read(start, min(start + _BLOCK, array.rows))) for start in range(0, array.rows, _BLOCK)]
    values, counts = np.unique(np.concatenate(parts), return_counts=True)
    return values[counts == 1]


def _signature(rows: Float[np.ndarray, "b d"]) -> Integer[np.ndarray, " b"]:
    """Return the first entries, in thousandths of the largest entry of the row, as one number."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    steps = np.nan_to_num(rows[:, :_ENTRIES] / np.where(largest > 0, largest, 1)) * _STEPS
    factors = np.random.default_rng(0).integers(1, 2**62, steps.shape[1]) | 1
    return (np.round(steps).astype(np.int64) * factors).sum(axis=1)  # [b e] [e] -> [b], modulo 2**64
