"""Indices of SLURM arrays: the elements of the grid that belong to a task, and texts of indices for sbatch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from fungi.errors import FungiError

PARTIAL, FIRST, ELEMENT, SLOT = "FUNGI_PARTIAL", "FUNGI_FIRST", "FUNGI_ELEMENT", "FUNGI_SLOT"
"""Environment variables of the tasks of an array (`chosen_indices`)."""
MAX_ARRAY = 1000
"""Largest number of tasks in an array, unless SLURM's MaxArraySize is smaller (its default is 1001)."""
_NAMES = ("JOB_ID", "TASK_ID", "TASK_COUNT", "TASK_MIN", "TASK_MAX")
"""Variables of a SLURM array, after `SLURM_ARRAY_`."""


class Place(NamedTuple):
    """Number of the pair (backbone and dataset) of an element, and position of the element within the pair."""

    pair: int
    position: int


@dataclass(frozen=True)
class ArrayShape:
    """Relation between the tasks of an array and the elements of the grid.

    A task computes a pack: `pack` elements that run at the same time. A slot is the number of a pack within a pair.

    Without a slot, task `t` computes pack `first + t`; packs are counted over all elements of the job. With a slot,
    task `t` computes pack number `slot` of pair number `first + t`. The same pair then has the same index in the arrays
    of several jobs. A task can wait for the task with the same index in another array (SLURM's aftercorr).
    """

    first: int = 0
    pack: int = 1
    slot: int | None = None

    def __str__(self) -> str:
        return ".".join(str(number) for number in (self.first, self.pack, self.slot) if number is not None)

    @classmethod
    def parse(cls, text: str) -> "ArrayShape | None":
        """Return the shape with this text, as `str(shape)` writes it; None for any other text."""
        words = text.split(".")
        return cls(*map(int, words)) if len(words) in (2, 3) and all(word.isdecimal() for word in words) else None

    def elements(self, task: int) -> range:
        """Return the indices of the elements of a task: indices in the job, or, with a slot, positions in the pair."""
        unit = self.first + task if self.slot is None else self.slot
        return range(unit * self.pack, (unit + 1) * self.pack)

    def variables(self) -> dict[str, str]:
        """Return the environment variables from which the tasks of the array read this shape."""
        first = {FIRST: str(self.first)} if self.first else {}
        return first if self.slot is None else first | {SLOT: str(self.slot)}


ONE_ELEMENT_PER_TASK = ArrayShape()


def chosen_indices(environ: Mapping[str, str], count: int, pack: int = 1, places: Sequence[Place] = ()) -> list[int]:
    """Return the indices of the elements that this process has to compute, in a grid of `count` elements.

    In an array, these are the `pack` elements of the task; without an array, all elements. If FUNGI_ELEMENT is set, its
    value is the only index.

    FUNGI_PARTIAL=1 declares that the array is only a part of the grid. FUNGI_FIRST=N declares that index 0 is pack N,
    for grids that are larger than the largest array. FUNGI_SLOT=S declares that the indices are numbers of pairs
    (`ArrayShape`); this needs the `places` of all elements.

    Raises FungiError if only some of SLURM's variables are set, or if the array does not fit the grid. Otherwise some
    elements could be computed twice or not at all, and nobody would notice.
    """
    if ELEMENT in environ:
        return [_number(ELEMENT, environ[ELEMENT])]
    variables = {name: environ.get(f"SLURM_ARRAY_{name}") for name in _NAMES}
    absent = [f"SLURM_ARRAY_{name}" for name, text in variables.items() if text is None]
    if len(absent) == len(_NAMES):
        return list(range(count))
    if absent:
        raise FungiError(
            f"some variables of a SLURM array are set, but not {', '.join(absent)}. Submit with sbatch --array, "
            "or unset all SLURM_ARRAY_* to run all elements of the grid in sequence."
        )
    task, size, low, high = (_number(f"SLURM_ARRAY_{name}", variables[name]) for name in _NAMES[1:])
    first = _number(FIRST, environ.get(FIRST, "0"))
    if SLOT in environ:
        return _indices_of_pair(ArrayShape(first, pack, _number(SLOT, environ[SLOT])), task, places)
    tasks = ceil(count / pack)
    command = f"sbatch --array={array_text(range(tasks))}"
    units = "elements" if pack == 1 else f"packs of {pack} elements"
    if first + high >= tasks:
        raise FungiError(f"the array goes up to index {first + high}, but the grid has {tasks} {units}. Use {command}.")
    if not (low <= task <= high and 1 <= size <= high - low + 1):
        raise FungiError(
            f"the variables of the SLURM array contradict each other: task {task} of {size}, from {low} to {high}."
        )
    if size < tasks and environ.get(PARTIAL) != "1":
        raise FungiError(
            f"the array has {size} tasks, but the grid has {tasks} {units}. Use {command}, or `fungi submit`. "
            f"Set {PARTIAL}=1 to run only a part of the grid."
        )
    return [index for index in ArrayShape(first, pack).elements(task) if index < count]


def _indices_of_pair(shape: ArrayShape, task: int, places: Sequence[Place]) -> list[int]:
    """Return the indices of a task's elements in a pair. Raises FungiError if the pair has no such elements."""
    positions = shape.elements(task)
    indices = [
        index for index, place in enumerate(places) if place.pair == shape.first + task and place.position in positions
    ]
    if not indices:
        raise FungiError(
            f"pair {shape.first + task} of backbone and dataset has no element {positions.start} in this grid: the "
            "array was submitted for another grid. Submit again with `fungi submit --missing`."
        )
    return indices


def array_text(indices: Iterable[int]) -> str:
    """Return indices in the form that sbatch --array accepts: `"0-2,5"` for `[0, 1, 2, 5]`."""
    spans: list[list[int]] = []
    for index in sorted(set(indices)):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def chunks(indices: Iterable[int], largest: int = MAX_ARRAY) -> list[tuple[int, list[int]]]:
    """Return indices in parts that fit into an array: (first index, indices counted from the first index).

    largest: largest number of tasks in an array.
    """
    parts: dict[int, list[int]] = {}
    for index in sorted(set(indices)):
        parts.setdefault(index // largest * largest, []).append(index % largest)
    return sorted(parts.items())


def _number(name: str, text: str | None) -> int:
    """Return the number in a variable. Raises FungiError for any other text."""
    if text is None or not text.isdecimal():
        raise FungiError(f"{name} is {text!r}, not a number.")
    return int(text)
