"""A small dataset in the format of COCO."""

from pathlib import Path

import pytest

from tests.pretraining.digit_canvases import write_canvases


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_canvases(tmp_path_factory.mktemp("coco"), {"train2017": 6, "val2017": 3})
