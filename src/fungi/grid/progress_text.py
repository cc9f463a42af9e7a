"""Lines that show progress: numbers of elements, and details of elements that need attention, grouped by problem."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from fungi.grid.progress import DONE, FAILED, STATES, Progress

SINGLE_LINES = 8
"""Largest number of elements that get a line each. If there are more, elements with the same problem share a line."""


def counts(progress_of_elements: Sequence[Progress]) -> str:
    """Return the number of elements in each state, e.g. `done 3/8, failed 1, missing 4`."""
    counter = Counter(progress.state for progress in progress_of_elements)
    others = [f"{state} {counter[state]}" for state in STATES[1:] if counter[state]]
    return ", ".join([f"done {counter[DONE]}/{len(progress_of_elements)}", *others])


def details(progress_of_elements: Iterable[Progress], *, verbose: bool) -> Iterator[str]:
    """Yield one line per element that needs attention; if `verbose` is set, yield one line for every element.

    If more than `SINGLE_LINES` elements need attention, elements with the same problem share a line.
    """
    selected = [
        progress
        for progress in progress_of_elements
        if verbose or progress.state == FAILED or (progress.state != DONE and progress.detail)
    ]
    groups: dict[tuple[str, str], list[Progress]] = {}
    for progress in selected:
        problem = progress.detail.replace(progress.log, "") if progress.log else progress.detail
        has_own_line = verbose or len(selected) <= SINGLE_LINES
        # Texts of the same problem may differ in numbers, such as ids of jobs.
        key = str(progress.index) if has_own_line else re.sub(r"\d+", "", problem)
        groups.setdefault((progress.state, key), []).append(progress)
    for (state, _), members in groups.items():
        first = members[0]
        detail = f": {first.detail}" if first.detail else ""
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        yield f"  {first.index:>5}  {state:<8} {first.element}{more}{detail}"
