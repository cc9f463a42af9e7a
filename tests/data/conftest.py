"""Fixtures that write miniature datasets to a temporary data directory."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fungi.data.base import Samples, open_split
from fungi.runtime.log import logger
from tests.data.miniatures import miniatures
from tests.data.miniatures.miniature import Miniature


@dataclass(frozen=True)
class MiniatureOnDisk:
    """A miniature dataset and its data directory."""

    name: str
    data_dir: Path
    expected: Miniature

    def open(self, split: str) -> Samples:
        return open_split(self.name, split, self.data_dir)


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], MiniatureOnDisk]:
    """Return a function of the dataset name that writes its miniature to `tmp_path / "data"`."""

    def make(name: str) -> MiniatureOnDisk:
        data_dir = tmp_path / "data"
        data_dir.mkdir()
        return MiniatureOnDisk(name, data_dir, miniatures()[name].make(data_dir, monkeypatch))

    return make


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Return the captured messages of the program."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger="fungi")
    return caplog
