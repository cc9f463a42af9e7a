"""Text datasets as the hub's Parquet conversion has them: one table per split, with columns that nobody asked for."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from tests.data.makers.miniature import Row

Rows = list[tuple[str, Any]]
"""Text and label as stored."""


def write_table(path: Path, rows: Rows, text: str = "text", label: str = "label") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {text: [row[0] for row in rows], label: [row[1] for row in rows], "idx": list(range(len(rows)))}
    parquet.write_table(pyarrow.table(columns), path)


def text_rows(split: str, rows: Rows, labels: list[int] | None = None) -> list[Row]:
    """Expected rows: ids are the place in the file and a hash of the text."""
    labels = labels or [label for _, label in rows]
    hashes = [hashlib.sha256(text.encode()).hexdigest()[:8] for text, _ in rows]
    return [Row(f"{split}/{place}#{known}", labels[place]) for place, known in enumerate(hashes)]


def write_splits(root: Path, splits: dict[str, Rows], **columns: str) -> dict[str, list[Row]]:
    for split, rows in splits.items():
        write_table(root / f"{split}.parquet", rows, **columns)
    return {split: text_rows(split, rows) for split, rows in splits.items()}
