"""What waits for what: each backbone and dataset goes from extraction to evaluation on its own.

So one that fails, a dataset with a damaged image say, stops nothing but its own chain. The report waits for the end of
everything, whatever came of it. (Extraction draws matrices that are missing, so it waits for the projection stage
without asking what came of it either.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fungi.commands import STAGES, Stage
from fungi.grid.declaration import Grid
from fungi.grid.elements import elements
from fungi.grid.submission import Array, JobEnvironment, Submittable, arrays

CHAINED: tuple[Stage, ...] = ("extraction", "merge", "evaluation")
"""Stages of a chain; each needs the one before it."""
_EVERYTHING = ("", "")


@dataclass(frozen=True)
class Planned:
    """A job, its elements to submit, and the jobs that have others of its elements in hand already."""

    submitted: Submittable
    indices: list[int]
    in_hand: dict[int, str]


class Chains:
    """Ids of the jobs in hand, by stage and by pair of backbone and dataset."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, tuple[str, str]], list[str]] = {}

    def add(self, stage: Stage, pair: tuple[str, str], job: str) -> None:
        """A job, or task of an array, works for a pair (or for everything)."""
        self._ids.setdefault((stage, pair), []).append(job)

    def before(self, stage: Stage, pair: tuple[str, str]) -> list[str]:
        """Ids of what has to come before the elements of a pair (of all pairs, for what is of everything)."""
        earlier = STAGES[: STAGES.index(stage)]
        needed = [name for name in earlier if name in CHAINED or stage == "extraction"]
        for name in reversed(needed):
            fits = [of for at, of in self._ids if at == name and (pair == _EVERYTHING or of in (_EVERYTHING, pair))]
            if fits:
                return list(dict.fromkeys(job for of in fits for job in self._ids[name, of]))
        return []


def submit_all(
    grid: Grid, planned: Sequence[Planned], jobs: JobEnvironment, submit: Callable[[Array, Submittable], str]
) -> None:
    """Submit the jobs in the order of their stages. `submit` takes an array and gives its job id."""
    chains = Chains()
    for stage in STAGES:
        for job in (job for job in planned if job.submitted.stage == stage):
            points = elements(grid, job.submitted.call)
            pairs = [element.pair if stage in CHAINED else _EVERYTHING for element in points]
            for index, running in job.in_hand.items():
                chains.add(stage, pairs[index], running)
            groups: dict[tuple[str, str], list[int]] = {}  # elements that wait for the same jobs
            for index in job.indices:
                groups.setdefault(pairs[index] if stage in CHAINED[1:] else _EVERYTHING, []).append(index)
            for pair, indices in groups.items():
                after = chains.before(stage, pair)
                even_if_failed = stage in ("extraction", "report")
                for array in arrays(grid, job.submitted, jobs, indices, after, even_if_failed=even_if_failed):
                    made = submit(array, job.submitted)
                    alone = len({pairs[index] for index in array.tasks}) == 1
                    for index, task in array.tasks.items():
                        chains.add(stage, pairs[index], made if alone else f"{made}_{task}")
