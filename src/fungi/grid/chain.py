"""Dependencies between jobs: each pair of backbone and dataset has its own chain from extraction to evaluation.

If a pair fails, for example because of a damaged image, only its own chain stops. The report waits until all other jobs
have ended, with or without success. Extraction likewise waits for the end of the projection stage, since it draws
missing matrices itself.

Pairs that have the same work left are submitted together: one array per job and slot (each shard of a pair has a slot).
The index in the array is the number of the pair, and each task waits for the task of its pair. A grid of 800 pairs then
takes some dozens of calls of sbatch instead of thousands. Where this saves no calls, each pair gets its own arrays,
which wait for the tasks of its shards.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fungi.commands import STAGES, Stage
from fungi.grid.array import Place, chunks
from fungi.grid.declaration import Grid
from fungi.grid.progress import pack_of
from fungi.grid.submission import CHAINED, Array, Dependency, JobEnvironment, Submittable, arrays, pair_arrays

Submit = Callable[[Array, Submittable], str]
"""Submits an array, and returns its job id."""


@dataclass(frozen=True)
class Planned:
    """A job with the elements to submit, and the elements that are queued or running already.

    queued: element index -> id of the job that waits or runs for it.
    """

    submitted: Submittable
    indices: Sequence[int]
    queued: dict[int, str]


@dataclass(frozen=True)
class Group:
    """Pairs with the same work left: their numbers, and the slots of each planned job (by its place in the plan)."""

    pairs: tuple[int, ...]
    slots: dict[int, tuple[int, ...]]


def groups(grid: Grid, planned: Sequence[Planned], most: int) -> list[Group]:
    """Return groups of pairs for which a common submission saves calls of sbatch, each of at most `most` pairs.

    There are no groups if a pack holds shards of two pairs, since one index of an array would then stand for both.
    """
    if any(_packs_cross_pairs(job.submitted, pack_of(grid, job.submitted.call)) for job in planned):
        return []
    slots: dict[int, dict[int, set[int]]] = {}  # pair -> job -> slots
    separate: set[int] = set()
    for number, job in enumerate(planned):
        if job.submitted.stage in CHAINED:
            pack, places = pack_of(grid, job.submitted.call), job.submitted.places
            separate |= {places[index].pair for index in job.queued}
            for index in job.indices:
                slots_of_pair = slots.setdefault(places[index].pair, {})
                slots_of_pair.setdefault(number, set()).add(places[index].position // pack)
    pairs_by_work: dict[tuple[tuple[int, tuple[int, ...]], ...], list[int]] = {}
    for pair, jobs in slots.items():
        if pair not in separate:
            pairs_by_work.setdefault(
                tuple((number, tuple(sorted(jobs[number]))) for number in sorted(jobs)), []
            ).append(pair)
    worthwhile = []
    for work, pairs in pairs_by_work.items():
        for first, part in chunks(pairs, most):
            group = Group(tuple(first + index for index in part), dict(work))
            later_jobs = sum(planned[number].submitted.stage != "extraction" for number in group.slots)
            if len(group.pairs) * later_jobs > sum(map(len, group.slots.values())):
                worthwhile.append(group)
    return worthwhile


def _packs_cross_pairs(submitted: Submittable, pack: int) -> bool:
    counts = Counter(place.pair for place in submitted.places)
    return pack > 1 and any(count % pack for count in counts.values())


class Chains:
    """Ids of queued and running jobs by stage and number of the pair, for pairs that are submitted separately."""

    def __init__(self) -> None:
        self._ids: dict[Stage, dict[int, list[str]]] = {}

    def add(self, stage: Stage, pair: int, job: str) -> None:
        """Note that a job, or a task of an array, works for a pair."""
        self._ids.setdefault(stage, {}).setdefault(pair, []).append(job)

    def before(self, stage: Stage, pair: int) -> list[str]:
        """Return the jobs that a stage of a pair waits for: those of the latest earlier stage that has jobs."""
        for earlier in reversed(CHAINED[: CHAINED.index(stage)]):
            if jobs := self._ids.get(earlier, {}).get(pair):
                return list(dict.fromkeys(jobs))
        return []


class _Submission:
    """State of a submission: ids of the submitted jobs by stage, pair and group."""

    def __init__(self, grid: Grid, planned: Sequence[Planned], jobs: JobEnvironment, submit: Submit) -> None:
        self._grid, self._planned, self._jobs, self._submit = grid, planned, jobs, submit
        self._groups = groups(grid, planned, jobs.max_array)
        self._grouped = {pair for group in self._groups for pair in group.pairs}
        self._chains = Chains()
        self._jobs_of_group: dict[tuple[int, Stage], list[str]] = {}
        self._jobs_of_stage: dict[Stage, list[str]] = {}

    def run(self) -> None:
        """Submit the jobs in the order of their stages."""
        for stage in STAGES:
            for number, job in enumerate(self._planned):
                if job.submitted.stage == stage:
                    self._submit_job(number, job, stage)

    def _submit_job(self, number: int, job: Planned, stage: Stage) -> None:
        places = job.submitted.places
        for index, running in job.queued.items():
            self._note(stage, [places[index]], [running])
        if stage not in CHAINED:
            needed = [] if stage == "projection" else self._latest(before=stage)
            self._submit_alone(job, stage, job.indices, Dependency(needed, "afterany"))
            return
        for place, group in enumerate(self._groups):
            if slots := group.slots.get(number):
                after = self._before_group(place, stage)
                for array in pair_arrays(self._grid, job.submitted, self._jobs, group.pairs, slots, after):
                    submitted = self._submit(array, job.submitted)
                    self._jobs_of_group.setdefault((place, stage), []).append(submitted)
                    self._jobs_of_stage.setdefault(stage, []).append(submitted)
        waiting: dict[tuple[str, ...], list[int]] = {}  # elements that wait for the same jobs
        for index in job.indices:
            if places[index].pair not in self._grouped:
                waiting.setdefault(tuple(self._chains.before(stage, places[index].pair)), []).append(index)
        for jobs_before, indices in waiting.items():
            after = self._projections() if stage == "extraction" else Dependency(jobs_before)
            self._submit_alone(job, stage, indices, after)

    def _submit_alone(self, job: Planned, stage: Stage, indices: Sequence[int], after: Dependency) -> None:
        places = job.submitted.places
        for array in arrays(self._grid, job.submitted, self._jobs, indices, after):
            submitted = self._submit(array, job.submitted)
            places_of_array = [places[index] for index in array.tasks]
            single_pair = len({place.pair for place in places_of_array}) == 1
            tasks = [submitted if single_pair else f"{submitted}_{task}" for task in array.tasks.values()]
            self._note(stage, places_of_array, tasks, [submitted])

    def _note(self, stage: Stage, places: Iterable[Place], tasks: Iterable[str], jobs: Sequence[str] = ()) -> None:
        """Record the job or task of each pair. jobs: ids that later stages wait for, instead of single tasks."""
        tasks = list(tasks)
        for place, task in zip(places, tasks, strict=True):
            self._chains.add(stage, place.pair, task)
        self._jobs_of_stage.setdefault(stage, []).extend(jobs or tasks)

    def _before_group(self, place: int, stage: Stage) -> Dependency:
        if stage == "extraction":
            return self._projections()
        earlier = (self._jobs_of_group.get((place, name)) for name in reversed(CHAINED[: CHAINED.index(stage)]))
        return Dependency(next(filter(None, earlier), []), "aftercorr")

    def _projections(self) -> Dependency:
        return Dependency(self._jobs_of_stage.get("projection", []), "afterany")

    def _latest(self, before: Stage) -> list[str]:
        """Return the jobs of the latest earlier stage that has jobs."""
        earlier = (self._jobs_of_stage.get(name) for name in reversed(STAGES[: STAGES.index(before)]))
        return list(dict.fromkeys(next(filter(None, earlier), [])))


def submit_all(grid: Grid, planned: Sequence[Planned], jobs: JobEnvironment, submit: Submit) -> None:
    """Submit the jobs in the order of their stages, each with its dependencies."""
    _Submission(grid, planned, jobs, submit).run()
