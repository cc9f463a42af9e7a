"""Splits of texts held in memory: what every text dataset makes of its rows."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fungi.data.base import Samples
from fungi.data.names import PackedNames


@dataclass(frozen=True)
class Texts:
    """Row -> text."""

    texts: Sequence[str]

    def __call__(self, row: int) -> str:
        """The text of a row; it may be empty."""
        return self.texts[row]


def text_samples(
    texts: Sequence[str], labels: Iterable[int], places: Iterable[str], class_names: Sequence[str] = ()
) -> Samples:
    """A split of texts, in order.

    places: one name per row, unique in the split. Ids are these with a hash of the text behind, so that a dataset's
    fingerprint tells edited texts.
    """
    ids = [f"{place}#{text_hash(text)}" for place, text in zip(places, texts, strict=True)]
    return Samples(
        targets=np.asarray(list(labels), dtype=np.uint32),
        ids=PackedNames(ids),
        load=Texts(PackedNames(texts)),
        class_names=tuple(class_names),
    )


def text_hash(text: str) -> str:
    """Eight hexadecimal digits that tell a text from others."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
