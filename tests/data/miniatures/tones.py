"""Tones: generated from the row number, without files."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, generated

KINDS = ["falling", "hissing", "plucked", "pulsing", "rich", "rising", "steady", "trembling"]


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    return generated("tones-42", {"train": 400, "test": 200}, KINDS)
