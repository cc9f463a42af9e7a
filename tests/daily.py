"""Choose which cases of a parametrised test run in `make check`."""

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet


def slow_after_first(cases: Iterable[object], count: int = 1) -> list[ParameterSet]:
    """Return all cases. The cases after the first `count` have the mark `slow`."""
    return [pytest.param(case, marks=[pytest.mark.slow] if index >= count else []) for index, case in enumerate(cases)]
