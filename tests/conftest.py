"""Commands configure the program's logger; each test finds it as it was."""

from collections.abc import Iterator

import pytest

from fungi.runtime.log import logger


@pytest.fixture(autouse=True)
def _logger_as_found() -> Iterator[None]:
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
