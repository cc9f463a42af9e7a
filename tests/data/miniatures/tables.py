"""Write text datasets as Parquet files: one table per split, with an additional column, as on the Hugging Face hub."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from tests.data.miniatures.miniature import Row

Rows = list[tuple[str, Any]]
"""The text and the stored label of each row."""


def write_table(path: Path, rows: Rows, text: str = "text", label: str = "label") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {text: [row[0] for row in rows], label: [row[1] for row in rows], "idx": list(range(len(rows)))}
    parquet.write_table(pyarrow.table(columns), path)


def text_rows(split: str, rows: Rows, labels: list[int] | None = None) -> list[Row]:
    """Return the expected rows. An id is the position in the file and a hash of the text.

    labels: the expected labels, if they differ from the stored labels.
    """
    labels = labels or [label for _, label in rows]
    hashes = [hashlib.sha256(text.encode()).hexdigest()[:8] for text, _ in rows]
    return [Row(f"{split}/{index}#{text_hash}", labels[index]) for index, text_hash in enumerate(hashes)]


def write_splits(root: Path, splits: dict[str, Rows], **columns: str) -> dict[str, list[Row]]:
    """Write a table per split, and return the expected rows."""
    for split, rows in splits.items():
        write_table(root / f"{split}.parquet", rows, **columns)
    return {split: text_rows(split, rows) for split, rows in splits.items()}
