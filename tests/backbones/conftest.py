"""Fixture: a registered backbone with a small architecture."""

import pytest

from tests.backbones.small import SMALL, shrink


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch, SMALL)
