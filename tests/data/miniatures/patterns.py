"""Patterns: generated from the row number, without files."""

from pathlib import Path

import pytest

from tests.data.miniatures.miniature import Miniature, generated

KINDS = ["rows", "columns", "checks", "diamonds", "rings", "dots", "blobs", "rays"]


def make(data_dir: Path, patch: pytest.MonkeyPatch) -> Miniature:
    return generated("patterns", {"train": 2048, "test": 512}, KINDS)
