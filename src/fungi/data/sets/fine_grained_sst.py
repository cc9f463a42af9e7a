"""`fine-grained-sst`: Stanford Sentiment Treebank. Sentiments from 0 to 1 are binned into five classes (spec text 2).

In the published code, a sentiment on the edge of two bins is in the upper class, and 1.0 is in a sixth class (spec text
6, T3).
"""

from dataclasses import replace
from typing import Any

from fungi.data.formats.text_tables import PARQUET_REVISION, TextTable, register_table

CLASSES = ("very negative", "negative", "neutral", "positive", "very positive")


def standard_bin(sentiment: Any) -> int:
    """Return the class: 0 for [0, 0.2], 1 for (0.2, 0.4], ..., 4 for (0.8, 1]."""
    value = _sentiment_value(sentiment)
    return sum(value > edge for edge in (0.2, 0.4, 0.6, 0.8))


def published_bin(sentiment: Any) -> int:
    """Return the class in the published code: 0 for [0, 0.2), 1 for [0.2, 0.4), ..., 4 for [0.8, 1), 5 for 1."""
    value = _sentiment_value(sentiment)
    return sum(value >= edge for edge in (0.2, 0.4, 0.6, 0.8, 1.0))


def _sentiment_value(sentiment: Any) -> float:
    value = round(float(sentiment), 5)  # a stored float32 can be 0.2000000030; it is then 0.2, an edge of a bin
    if not 0 <= value <= 1:
        raise ValueError(f"the sentiment {sentiment} is not between 0 and 1")
    return value


TABLE = TextTable(
    dataset="fine-grained-sst",
    repository="stanfordnlp/sst",
    configuration="default",
    revision=PARQUET_REVISION,
    text="sentence",
    class_names=CLASSES,
    rule=standard_bin,
)
PUBLISHED_TABLE = replace(TABLE, rule=published_bin, class_names=(*CLASSES, "exactly 1"))
register_table(
    TABLE,
    title="Stanford Sentiment Treebank, five classes",
    sizes={"train": 8544, "valid": 1101, "test": 2210},
    published_open=PUBLISHED_TABLE.open,
)
