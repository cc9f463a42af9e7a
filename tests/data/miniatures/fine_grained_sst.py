"""Fine-grained SST: one table per split, with the columns `sentence` and `label` (float32 between 0 and 1)."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature
from tests.data.miniatures.tables import text_rows, write_table

SPLITS = {
    "train": [("Dreadful .", 0.0), ("Poor .", 0.2), ("Hm .", 0.21), ("Meh .", 0.4), ("So so .", 0.6)],
    "valid": [("Good .", 0.8), ("Very good .", 0.80556)],
    "test": [("The best .", 1.0), ("Neither .", 0.5)],
}
LABELS = {"train": [0, 0, 1, 1, 2], "valid": [3, 4], "test": [4, 2]}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    for split, rows in SPLITS.items():
        write_table(data_dir / "fine-grained-sst" / f"{split}.parquet", rows, text="sentence")
    names = ["very negative", "negative", "neutral", "positive", "very positive"]
    return Miniature({split: text_rows(split, SPLITS[split], LABELS[split]) for split in SPLITS}, class_names=names)
