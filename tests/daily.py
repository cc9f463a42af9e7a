"""Which cases of a law the daily loop runs."""

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet


def first_fast(cases: Iterable[object], count: int = 1) -> list[ParameterSet]:
    """All cases; those after the first few are marked slow."""
    return [
        pytest.param(case, marks=[pytest.mark.slow] if number >= count else []) for number, case in enumerate(cases)
    ]
