"""Lines that show progress: counts, and details of elements that need attention, grouped by problem."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from fungi.grid.progress import DONE, FAILED, STATES, Progress

SINGLE_LINES = 8
"""Up to this number, each element gets its own line. If there are more, elements with the same problem share a line."""


def counts(shown: Sequence[Progress]) -> str:
    """Return `done 3/8, failed 1, missing 4`."""
    tally = Counter(progress.state for progress in shown)
    others = [f"{state} {tally[state]}" for state in STATES[1:] if tally[state]]
    return ", ".join([f"done {tally[DONE]}/{len(shown)}", *others])


def details(shown: Iterable[Progress], *, verbose: bool) -> Iterator[str]:
    """Yield one line per element: of all (verbose), or only of those that need attention.

    If more than `SINGLE_LINES` elements need attention, those with the same problem share a line.
    """
    picked = [
        progress
        for progress in shown
        if verbose or progress.state == FAILED or (progress.state != DONE and progress.detail)
    ]
    groups: dict[tuple[str, str], list[Progress]] = {}
    for progress in picked:
        problem = progress.detail.replace(progress.log, "") if progress.log else progress.detail
        key = str(progress.index) if verbose or len(picked) <= SINGLE_LINES else re.sub(r"\d+", "", problem)
        groups.setdefault((progress.state, key), []).append(progress)
    for (state, _), members in groups.items():
        first = members[0]
        detail = f": {first.detail}" if first.detail else ""
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        yield f"  {first.index:>5}  {state:<8} {first.element}{more}{detail}"
