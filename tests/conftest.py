"""Slow tests start first; commands configure the program's logger, and each test finds it as it was."""

import logging
import os
import random
import sys
from collections.abc import Iterator

import pytest

from fungi.runtime.log import logger

# Threads wait asleep, as they do in commands; has to be said before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests that share what a fixture of their module makes go to one worker, so that it is made once.

    Marked here, since xdist reads the marks before it asks this file for the order.
    """
    fixtures = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
    if any(fixture.scope == "module" and fixture.baseid for (*_, fixture) in fixtures):
        item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


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
