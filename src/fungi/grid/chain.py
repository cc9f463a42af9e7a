"""Dependencies between jobs: each pair of backbone and dataset has its own chain from extraction to evaluation.

If a pair fails, for example because of a damaged image, only its own chain stops. The report waits until all other jobs
have ended, with or without success. In the same way, extraction waits until the projection stage has ended. It does not
need the success of this stage, because it draws missing matrices itself.

Pairs with the same remaining work are submitted together: one array per job and slot (each shard of a pair has a slot).
The index in the array is the number of the pair, and each task waits for the task of its pair. A grid of 800 pairs then
takes some dozens of calls of sbatch instead of thousands. If a common array does not save calls, each pair gets its own
arrays, which wait for the tasks of its shards.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fungi.commands import STAGES, Stage
from fungi.grid.array import Place, chunks
from fungi.grid.declaration import Grid
from fungi.grid.progress import pack_of
from fungi.grid.submission import CHAINED, Array, Dependency, GridJob, JobEnvironment, arrays, pair_arrays

Submit = Callable[[Array, GridJob], str]
"""A function that submits an array and returns its job id."""


@dataclass(frozen=True)
class PlannedJob:
    """A job with the indices of the elements to submit, and of the elements that are already queued or running.

    queued: index of the element -> id of the job in which the element is queued or running.
    """

    grid_job: GridJob
    indices: Sequence[int]
    queued: dict[int, str]


@dataclass(frozen=True)
class Group:
    """Pairs with the same remaining work.

    pairs: numbers of the pairs. slots: index of the planned job -> its slots.
    """

    pairs: tuple[int, ...]
    slots: dict[int, tuple[int, ...]]


def groups(grid: Grid, planned_jobs: Sequence[PlannedJob], largest: int) -> list[Group]:
    """Return groups of pairs for which a common submission saves calls of sbatch.

    largest: largest number of pairs in a group. There are no groups if a pack contains shards of two pairs, because one
    index of an array would then mean both pairs.
    """
    if any(_packs_cross_pairs(job.grid_job, pack_of(grid, job.grid_job.call)) for job in planned_jobs):
        return []
    slots: dict[int, dict[int, set[int]]] = {}  # pair -> planned job -> slots
    pairs_with_queued_jobs: set[int] = set()
    for number, job in enumerate(planned_jobs):
        if job.grid_job.stage in CHAINED:
            pack, places = pack_of(grid, job.grid_job.call), job.grid_job.places
            pairs_with_queued_jobs |= {places[index].pair for index in job.queued}
            for index in job.indices:
                slots_of_pair = slots.setdefault(places[index].pair, {})
                slots_of_pair.setdefault(number, set()).add(places[index].position // pack)
    # The work of a pair is a tuple of (planned job, slots).
    pairs_by_work: dict[tuple[tuple[int, tuple[int, ...]], ...], list[int]] = {}
    for pair, slots_by_job in slots.items():
        if pair not in pairs_with_queued_jobs:
            work = tuple((number, tuple(sorted(slots_by_job[number]))) for number in sorted(slots_by_job))
            pairs_by_work.setdefault(work, []).append(pair)
    groups_that_save_calls = []
    for work, pairs in pairs_by_work.items():
        for first, offsets in chunks(pairs, largest):
            group = Group(tuple(first + offset for offset in offsets), dict(work))
            later_jobs = sum(planned_jobs[number].grid_job.stage != "extraction" for number in group.slots)
            calls_of_group = sum(map(len, group.slots.values()))
            calls_without_group = len(group.pairs) * later_jobs  # at least one call per pair and later job
            if calls_without_group > calls_of_group:
                groups_that_save_calls.append(group)
    return groups_that_save_calls


def _packs_cross_pairs(grid_job: GridJob, pack: int) -> bool:
    """Return whether a pack of the job contains elements of two pairs. pack: number of elements in a pack."""
    counts = Counter(place.pair for place in grid_job.places)
    return pack > 1 and any(count % pack for count in counts.values())


class Chains:
    """Ids of queued and running jobs by stage and number of the pair, for pairs that are submitted separately."""

    def __init__(self) -> None:
        self._ids: dict[Stage, dict[int, list[str]]] = {}

    def add(self, stage: Stage, pair: int, job: str) -> None:
        """Record that a job, or a task of an array, belongs to a pair."""
        self._ids.setdefault(stage, {}).setdefault(pair, []).append(job)

    def before(self, stage: Stage, pair: int) -> list[str]:
        """Return the jobs that a stage of a pair waits for: the jobs of the latest earlier stage that has jobs."""
        for earlier in reversed(CHAINED[: CHAINED.index(stage)]):
            if jobs := self._ids.get(earlier, {}).get(pair):
                return list(dict.fromkeys(jobs))
        return []


class _Submission:
    """State of a submission: ids of the submitted jobs by stage, pair and group."""

    def __init__(
        self, grid: Grid, planned_jobs: Sequence[PlannedJob], environment: JobEnvironment, submit: Submit
    ) -> None:
        self._grid, self._planned_jobs, self._environment, self._submit = grid, planned_jobs, environment, submit
        self._groups = groups(grid, planned_jobs, environment.max_array)
        self._pairs_in_groups = {pair for group in self._groups for pair in group.pairs}
        self._chains = Chains()
        self._jobs_of_group: dict[tuple[int, Stage], list[str]] = {}
        self._jobs_of_stage: dict[Stage, list[str]] = {}

    def run(self) -> None:
        """Submit the jobs in the order of their stages."""
        for stage in STAGES:
            for number, job in enumerate(self._planned_jobs):
                if job.grid_job.stage == stage:
                    self._submit_job(number, job, stage)

    def _submit_job(self, number: int, job: PlannedJob, stage: Stage) -> None:
        """Submit the arrays of a planned job: first for the groups, then for the other pairs.

        number: index of the planned job.
        """
        places = job.grid_job.places
        for index, job_id in job.queued.items():
            self._record(stage, [places[index]], [job_id])
        if stage not in CHAINED:
            earlier_jobs = [] if stage == "projection" else self._latest_jobs(before=stage)
            self._submit_alone(job, stage, job.indices, Dependency(earlier_jobs, "afterany"))
            return
        for group_index, group in enumerate(self._groups):
            if slots := group.slots.get(number):
                after = self._before_group(group_index, stage)
                for array in pair_arrays(self._grid, job.grid_job, self._environment, group.pairs, slots, after):
                    job_id = self._submit(array, job.grid_job)
                    self._jobs_of_group.setdefault((group_index, stage), []).append(job_id)
                    self._jobs_of_stage.setdefault(stage, []).append(job_id)
        waiting: dict[tuple[str, ...], list[int]] = {}  # jobs -> elements that wait for these jobs
        for index in job.indices:
            if places[index].pair not in self._pairs_in_groups:
                waiting.setdefault(tuple(self._chains.before(stage, places[index].pair)), []).append(index)
        for jobs_before, indices in waiting.items():
            after = self._projections() if stage == "extraction" else Dependency(jobs_before)
            self._submit_alone(job, stage, indices, after)

    def _submit_alone(self, job: PlannedJob, stage: Stage, indices: Sequence[int], after: Dependency) -> None:
        """Submit arrays for elements of a planned job that belong to no group."""
        places = job.grid_job.places
        for array in arrays(self._grid, job.grid_job, self._environment, indices, after):
            job_id = self._submit(array, job.grid_job)
            places_of_array = [places[index] for index in array.tasks]
            has_single_pair = len({place.pair for place in places_of_array}) == 1
            tasks = [job_id if has_single_pair else f"{job_id}_{task}" for task in array.tasks.values()]
            self._record(stage, places_of_array, tasks, [job_id])

    def _record(self, stage: Stage, places: Iterable[Place], tasks: Iterable[str], jobs: Sequence[str] = ()) -> None:
        """Record the job or task of each pair. jobs: ids that later stages wait for, instead of single tasks."""
        tasks = list(tasks)
        for place, task in zip(places, tasks, strict=True):
            self._chains.add(stage, place.pair, task)
        self._jobs_of_stage.setdefault(stage, []).extend(jobs or tasks)

    def _before_group(self, group_index: int, stage: Stage) -> Dependency:
        """Return the dependency of the arrays of a group on the arrays of the latest earlier stage of the group."""
        if stage == "extraction":
            return self._projections()
        earlier = (self._jobs_of_group.get((group_index, name)) for name in reversed(CHAINED[: CHAINED.index(stage)]))
        return Dependency(next(filter(None, earlier), []), "aftercorr")

    def _projections(self) -> Dependency:
        """Return the dependency of an extraction: it waits until the projection stage has ended."""
        return Dependency(self._jobs_of_stage.get("projection", []), "afterany")

    def _latest_jobs(self, before: Stage) -> list[str]:
        """Return the jobs of the latest stage before `before` that has jobs."""
        earlier = (self._jobs_of_stage.get(name) for name in reversed(STAGES[: STAGES.index(before)]))
        return list(dict.fromkeys(next(filter(None, earlier), [])))


def submit_all(grid: Grid, planned_jobs: Sequence[PlannedJob], environment: JobEnvironment, submit: Submit) -> None:
    """Submit the jobs in the order of their stages, each with its dependencies."""
    _Submission(grid, planned_jobs, environment, submit).run()
