"""Miniature copies of datasets, made once per test in a temporary data directory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fungi.data.base import Samples, open_split
from tests.data.makers import makers
from tests.data.makers.miniature import Miniature


@dataclass(frozen=True)
class OnDisk:
    """A miniature dataset and where it is."""

    name: str
    data_dir: Path
    expected: Miniature

    def open(self, split: str) -> Samples:
        return open_split(self.name, split, self.data_dir)


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], OnDisk]:
    """Dataset name -> its miniature, made in `tmp_path / "data"`."""

    def make(name: str) -> OnDisk:
        data_dir = tmp_path / "data"
        data_dir.mkdir()
        return OnDisk(name, data_dir, makers()[name].make(data_dir, monkeypatch))

    return make
