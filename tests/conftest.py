"""Order of the tests, and settings that each test starts with: the logger, and seeds of random numbers."""

import gc
import logging
import os
import random
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from tests.annotation_checks import checked

jaxtyping.jaxtyped = checked  # before the first import of fungi

# Waiting threads sleep, as in commands. This has to be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give single tests to the workers, but all tests of a file to the same worker if they share a fixture.

    Then a fixture with the scope of a module runs only once. The groups of xdist (`--dist loadgroup`) have no effect
    with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class BySharedFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return path if _has_module_fixture(config.rootpath / path) else nodeid

    return BySharedFixture(config, log)


@cache
def _has_module_fixture(path: Path) -> bool:
    return 'scope="module"' in path.read_text(encoding="utf-8")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests without the garbage collector, which would search a million objects again and again.

    These objects stay until the end, so that the collector does not search them during the tests either.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first. Otherwise a worker could run a slow test while the other workers have no tests."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, item.get_closest_marker("slurm") is None))


@pytest.fixture(autouse=True)
def _reset_logger() -> Iterator[None]:
    """Reset the logger, which commands of earlier tests and fixtures configure.

    pytest adds its handler to loggers that do not propagate. Without a reset, it would capture records twice.
    """

    from fungi.runtime.log import logger

    def reset() -> None:
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)

    reset()
    yield
    reset()


@pytest.fixture(autouse=True)
def _seed_random_numbers() -> None:
    """Seed the global generators, so that no test depends on earlier tests or on chance."""
    random.seed(0)
    for module, function in (("numpy.random", "seed"), ("torch", "manual_seed")):
        if module in sys.modules:  # an import would take seconds
            getattr(sys.modules[module], function)(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let torch use two threads in a test, and restore the number of threads after it."""
    import torch

    earlier_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(earlier_threads)
