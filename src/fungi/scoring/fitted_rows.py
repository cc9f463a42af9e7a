"""Refuse to score rows that the evaluation is fitted on, unless a flag allows it (DESIGN 3.4)."""

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

MOST_DUPLICATES = 0.1
"""Largest allowed share of scored rows that are equal to fitted rows. Public datasets contain a few images and texts
twice, and the published numbers include them. If a split contains another split, the share is far larger."""
_ENTRIES, _STEPS, _BLOCK = 16, 1000, 8192


def seen_rows(splits: Splits) -> dict[str, int]:
    """Return the number of scored rows that are also in a fitted split, for each split with such rows.

    If the files or the dataset fingerprints are equal, all rows are the same. Otherwise, features are compared.
    """
    scored = splits.get("test", {})
    counts = {split: _shared(arrays, scored) for split, arrays in splits.items() if split != "test"}
    return {split: count for split, count in counts.items() if count}


def refuse_seen_rows(splits: Splits, scored: Path) -> None:
    """Raise FungiError if more than `MOST_DUPLICATES` of the scored rows were fitted on.

    scored: file with the scored rows, for the message.
    """
    for split, count in seen_rows(splits).items():
        rows = next(iter(splits["test"].values())).rows
        if count > MOST_DUPLICATES * rows:
            number = "the rows to score" if count == rows else f"{count} of the {rows} rows to score"
            raise FungiError(
                f"{number} ({scored}) are also in the {split} split, which is fitted on, so the scores would not show"
                " how new rows are classified. Choose other rows with --test-split, or allow it with"
                " --score-fitted-rows; headings of tables then say so."
            )


def warnings_of_seen_rows(splits: Splits) -> list[str]:
    """Return warnings about scored rows that were fitted on."""
    scored, texts = splits.get("test", {}), []
    for split, count in seen_rows(splits).items():
        rows = next(iter(scored.values())).rows
        number = "all scored rows are" if count == rows else f"{count} of the {rows} scored rows are"
        texts.append(f"{number} equal to rows of the {split} split, which was fitted on.")
    return texts


def _shared(fitted: Mapping[str, FeatureArray], scored: Mapping[str, FeatureArray]) -> int:
    if any(_same_rows(fitted[name], array) for name, array in scored.items()):
        return next(iter(scored.values())).rows
    name, array = next(iter(scored.items()))
    return int(np.isin(_row_signatures(array), _row_signatures(fitted[name])).sum())


def _same_rows(array: FeatureArray, other: FeatureArray) -> bool:
    if array.path.resolve() == other.path.resolve() and array.key == other.key:
        return True
    provenances = (array.provenance, other.provenance)
    return all(provenances) and len({provenance.dataset_fingerprint for provenance in provenances if provenance}) == 1


def _row_signatures(array: FeatureArray) -> Integer[np.ndarray, " u"]:
    return _signatures(array.path.resolve(), array.key, array.path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _signatures(path: Path, key: str, modified_ns: int) -> Integer[np.ndarray, " u"]:
    """Return the hashes of the rows, without hashes that several rows share.

    Rows of the same sample almost always have the same hash. In rare cases they differ, because the last digits of
    features depend on the batch and can change the rounding of an entry.
    """
    array = open_any(path, key)
    parts = [_signature(array.read(start, min(start + _BLOCK, array.rows))) for start in range(0, array.rows, _BLOCK)]
    values, counts = np.unique(np.concatenate(parts), return_counts=True)
    return values[counts == 1]


def _signature(rows: Float[np.ndarray, "b d"]) -> Integer[np.ndarray, " b"]:
    """Return a hash of each row. It is computed from the first entries, rounded to 1/1000 of the largest entry."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    steps = np.nan_to_num(rows[:, :_ENTRIES] / np.where(largest > 0, largest, 1)) * _STEPS
    factors = np.random.default_rng(0).integers(1, 2**62, steps.shape[1]) | 1
    return (np.round(steps).astype(np.int64) * factors).sum(axis=1)  # [b e] [e] -> [b], modulo 2**64
