"""TweetEval: one table for each of three splits, with the columns `text` and `label`."""

from pathlib import Path

import pytest

from fungi.data.sets.tweet_eval import TABLE
from tests.data.miniatures.miniature import Miniature
from tests.data.miniatures.tables import write_splits

SPLITS = {
    "train": [("Sunday afternoon walking with @user", 12), ("Xmas is near", 17), ("ha", 2)],
    "valid": [("sunset !", 4), ("USA", 11)],
    "test": [("en Pelham Parkway", 2), ("so blue today", 8)],
}


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    return Miniature(write_splits(data_dir / "tweet-eval", SPLITS), class_names=list(TABLE.class_names))
