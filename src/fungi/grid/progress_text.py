"""Progress as lines: counts, and what needs a look, elements with the same trouble together."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from fungi.grid.progress import DONE, FAILED, STATES, Progress

SINGLE_LINES = 8
"""Elements of a job that have a line each; of more, those with the same trouble share one."""


def counts(shown: Sequence[Progress]) -> str:
    """Return `done 3/8, failed 1, missing 4`."""
    tally = Counter(progress.state for progress in shown)
    others = [f"{state} {tally[state]}" for state in STATES[1:] if tally[state]]
    return ", ".join([f"done {tally[DONE]}/{len(shown)}", *others])


def details(shown: Iterable[Progress], *, verbose: bool) -> Iterator[str]:
    """Yield a line for every element (verbose), or for those that need a look: one per trouble if they are many."""
    picked = [
        progress
        for progress in shown
        if verbose or progress.state == FAILED or (progress.state != DONE and progress.detail)
    ]
    groups: dict[tuple[str, str], list[Progress]] = {}
    for progress in picked:
        trouble = progress.detail.replace(progress.log, "") if progress.log else progress.detail
        alike = str(progress.index) if verbose or len(picked) <= SINGLE_LINES else re.sub(r"\d+", "", trouble)
        groups.setdefault((progress.state, alike), []).append(progress)
    for (state, _), members in groups.items():
        first = members[0]
        detail = f": {first.detail}" if first.detail else ""
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        yield f"  {first.index:>5}  {state:<8} {first.element}{more}{detail}"
