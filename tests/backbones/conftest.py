"""A fixture for tests of loading: a registered backbone with a small architecture."""

import pytest

from tests.backbones.small import SMALL, shrink


@pytest.fixture
def small_backbone(monkeypatch):
    """Give the backbone `SMALL` a small architecture."""
    shrink(monkeypatch, SMALL)
