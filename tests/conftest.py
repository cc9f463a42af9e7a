"""Slow tests start first; commands configure the program's logger, and each test finds it as it was."""

import logging
import os
import random
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fungi.runtime.log import logger

# Threads wait asleep, as they do in commands; has to be said before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out tests one by one, but those of a file with a fixture of its module together: it is made once.

    xdist's own groups (`--dist loadgroup`) do nothing under pytest 9.2: they rename tests, which that ignores.
    """
    from xdist.scheduler import LoadScopeScheduling

    class BySharedFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if _has_fixture_of_its_module(config.rootpath / path) else nodeid

    return BySharedFixture(config, log)


@cache
def _has_fixture_of_its_module(path: Path) -> bool:
    return 'scope="module"' in path.read_text(encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long goes first, so that no test worker is left alone with it at the end."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, item.get_closest_marker("slurm") is None))


@pytest.fixture(autouse=True)
def _logger_not_configured() -> Iterator[None]:
    """Give each test the logger as at import, whatever a command of an earlier test or of a module's fixture set.

    pytest attaches its handler to a logger that does not propagate as well: a record would be captured twice.
    """

    def reset() -> None:
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)

    reset()
    yield
    reset()


@pytest.fixture(autouse=True)
def _same_draws_in_every_run() -> None:
    """Seed the global generators, so that no test depends on what ran before it, or on luck."""
    random.seed(0)
    for name, seed in (("numpy.random", "seed"), ("torch", "manual_seed")):
        if name in sys.modules:  # importing takes seconds
            getattr(sys.modules[name], seed)(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads, whatever the run has; a test may set others, which do not outlast it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
