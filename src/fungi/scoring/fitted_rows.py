"""Refuse to score rows that the evaluation is fitted on, unless a flag allows it."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from fungi.errors import FungiError
from fungi.store.foreign import open_any
from fungi.store.reading import FeatureArray

Splits = Mapping[str, Mapping[str, FeatureArray]]
"""The array of each feature of each split. `test` is scored. The other splits are fitted on, or used to choose lambda.
"""

MAX_FITTED_SHARE = 0.1
"""Largest allowed share of scored rows that are equal to fitted rows. Public datasets contain a few images and texts
twice, and the published numbers include these rows. If a split contains another split, the share is far larger."""
_HASHED_ENTRIES = 16
"""Number of entries of a row that its hash depends on."""
_STEPS = 1000
"""Number of rounding steps between 0 and the largest entry of a row."""
_BLOCK_ROWS = 8192


def fitted_row_counts(splits: Splits) -> dict[str, int]:
    """Return for each fitted split the number of scored rows that it contains. Splits without scored rows are omitted.

    If two splits have the same file or the same dataset fingerprint, all their rows are equal. Otherwise, the features
    of the rows are compared.
    """
    scored = splits.get("test", {})
    counts = {split: _count_common_rows(arrays, scored) for split, arrays in splits.items() if split != "test"}
    return {split: count for split, count in counts.items() if count}


def refuse_fitted_rows(splits: Splits, scored: Path) -> None:
    """Raise FungiError if more than `MAX_FITTED_SHARE` of the scored rows were fitted on.

    scored: file with the scored rows, for the message.
    """
    for split, count in fitted_row_counts(splits).items():
        rows = next(iter(splits["test"].values())).rows
        if count > MAX_FITTED_SHARE * rows:
            number = "the rows to score" if count == rows else f"{count} of the {rows} rows to score"
            raise FungiError(
                f"{number} ({scored}) are also in the {split} split, which is fitted on, so the scores would not show"
                " how new rows are classified. Choose other rows with --test-split, or allow these rows with"
                " --score-fitted-rows; the headings of tables then say so."
            )


def warnings_of_fitted_rows(splits: Splits) -> list[str]:
    """Return warnings about scored rows that were fitted on."""
    texts = []
    for split, count in fitted_row_counts(splits).items():
        rows = next(iter(splits["test"].values())).rows
        number = "all scored rows are" if count == rows else f"{count} of the {rows} scored rows are"
        texts.append(f"{number} equal to rows of the {split} split, which was fitted on.")
    return texts


def _count_common_rows(fitted: Mapping[str, FeatureArray], scored: Mapping[str, FeatureArray]) -> int:
    """Return the number of scored rows that are also in the fitted split."""
    if any(_same_rows(fitted[name], array) for name, array in scored.items()):
        return next(iter(scored.values())).rows
    name, array = next(iter(scored.items()))
    return int(np.isin(_unique_hashes(array), _unique_hashes(fitted[name])).sum())


def _same_rows(array: FeatureArray, other: FeatureArray) -> bool:
    """Return whether two arrays are the same, or come from the same samples."""
    if array.path.resolve() == other.path.resolve() and array.key == other.key:
        return True
    provenances = (array.provenance, other.provenance)
    return all(provenances) and len({provenance.dataset_fingerprint for provenance in provenances if provenance}) == 1


def _unique_hashes(array: FeatureArray) -> Integer[np.ndarray, " u"]:
    """Return `_cached_hashes` of an array."""
    return _cached_hashes(array.path.resolve(), array.key, array.path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _cached_hashes(path: Path, key: str, modified_ns: int) -> Integer[np.ndarray, " u"]:
    """Return the hashes of the rows, without hashes that several rows share.

    modified_ns: time of the last change of the file; after a change the hashes are computed again.

    Rows of the same sample almost always have the same hash. In rare cases their hashes differ, because the last digits
    of features depend on the batch and can change the rounding of an entry.
    """
    array = open_any(path, key)
    starts = range(0, array.rows, _BLOCK_ROWS)
    hashes = [_hashes(array.read(start, min(start + _BLOCK_ROWS, array.rows))) for start in starts]
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    return values[counts == 1]


def _hashes(rows: Float[np.ndarray, "b d"]) -> Integer[np.ndarray, " b"]:
    """Return a hash of each row, computed from its first entries, which are rounded to 1/1000 of its largest entry."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    steps = np.nan_to_num(rows[:, :_HASHED_ENTRIES] / np.where(largest > 0, largest, 1)) * _STEPS
    factors = np.random.default_rng(0).integers(1, 2**62, steps.shape[1]) | 1  # odd, so that no product loses a bit
    return (np.round(steps).astype(np.int64) * factors).sum(axis=1)  # [b e] [e] -> [b], modulo 2**64
