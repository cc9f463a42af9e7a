"""Array indices: what SLURM tells a job about its element, and how a set of indices is written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fungi.errors import FungiError

PARTIAL, FIRST, ELEMENT, SLOT = "FUNGI_PARTIAL", "FUNGI_FIRST", "FUNGI_ELEMENT", "FUNGI_SLOT"
MAX_ARRAY = 1000
"""Indices of one array, unless SLURM's MaxArraySize (1001, if no administrator changed it) is smaller."""
_NAMES = ("JOB_ID", "TASK_ID", "TASK_COUNT", "TASK_MIN", "TASK_MAX")


class Place(NamedTuple):
    """Where an element stands: the number of its backbone and dataset in the grid, and its position among theirs."""

    pair: int
    position: int


@dataclass(frozen=True)
class ArrayShape:
    """What the tasks of an array stand for.

    Without a slot, task `t` does the elements of pack `first + t`, counted over the whole job. With a slot, task `t`
    works for pair number `first + t`, and does pack `slot` of this pair: arrays of several jobs then have the same
    index for the same pair, so that each task of one can wait for the same task of another (SLURM's aftercorr).
    """

    first: int = 0
    pack: int = 1
    slot: int | None = None

    def __str__(self) -> str:
        return ".".join(str(number) for number in (self.first, self.pack, self.slot) if number is not None)

    @classmethod
    def parse(cls, text: str) -> "ArrayShape | None":
        """Return the shape that `str` wrote; None for any other text."""
        words = text.split(".")
        return cls(*map(int, words)) if len(words) in (2, 3) and all(word.isdecimal() for word in words) else None

    def elements(self, task: int) -> range:
        """Return the indices that a task does: in the job, or with a slot in the pair."""
        unit = self.first + task if self.slot is None else self.slot
        return range(unit * self.pack, (unit + 1) * self.pack)

    def variables(self) -> dict[str, str]:
        """Return what the jobs of the array need in their environment."""
        first = {FIRST: str(self.first)} if self.first else {}
        return first if self.slot is None else first | {SLOT: str(self.slot)}


WHOLE_ARRAY = ArrayShape()


def chosen_indices(environ: Mapping[str, str], count: int, pack: int = 1, places: Sequence[Place] = ()) -> list[int]:
    """Return the indices that this process has to do, of a grid of `count` elements.

    In an array those of its task, `pack` of them; outside of an array all; the one of FUNGI_ELEMENT, if that is set.
    Raises FungiError for variables that are half set, and for an array that is not the grid's: either would leave work
    undone, or do it again, in silence. An array that is a part of the grid on purpose says so with FUNGI_PARTIAL=1,
    with FUNGI_FIRST=N that its index 0 is element N (for grids that are larger than SLURM lets an array be), and with
    FUNGI_SLOT=S that its indices are numbers of pairs (`ArrayShape`; `places` of all elements have to be known).
    """
    if ELEMENT in environ:
        return [_number(ELEMENT, environ[ELEMENT])]
    variables = {name: environ.get(f"SLURM_ARRAY_{name}") for name in _NAMES}
    absent = [f"SLURM_ARRAY_{name}" for name, text in variables.items() if text is None]
    if len(absent) == len(_NAMES):
        return list(range(count))
    if absent:
        raise FungiError(
            f"the variables of a SLURM array are half set: {', '.join(absent)} missing. Submit with sbatch --array, "
            "or unset all SLURM_ARRAY_* to run the whole grid in sequence."
        )
    index, size, low, high = (_number(f"SLURM_ARRAY_{name}", variables[name]) for name in _NAMES[1:])
    first = _number(FIRST, environ.get(FIRST, "0"))
    if SLOT in environ:
        return _indices_of_pair(ArrayShape(first, pack, _number(SLOT, environ[SLOT])), index, places)
    tasks = -(-count // pack)
    whole = f"sbatch --array={array_text(range(tasks))}"
    what = "elements" if pack == 1 else f"packs of {pack} elements"
    if first + high >= tasks:
        raise FungiError(f"the array goes up to element {first + high} of a grid of {tasks}. Use {whole}.")
    if not (low <= index <= high and 1 <= size <= high - low + 1):
        raise FungiError(
            f"the variables of the SLURM array contradict each other: task {index} of {size}, from {low} to {high}."
        )
    if size < tasks and environ.get(PARTIAL) != "1":
        raise FungiError(
            f"the array has {size} of the grid's {tasks} {what}. Use {whole}, or `fungi submit`; "
            f"with {PARTIAL}=1 a part is done on purpose."
        )
    return [index for index in ArrayShape(first, pack).elements(index) if index < count]


def _indices_of_pair(shape: ArrayShape, task: int, places: Sequence[Place]) -> list[int]:
    """Return the indices of a task that works for a pair; FungiError where the grid has none of them."""
    positions = shape.elements(task)
    indices = [
        index for index, place in enumerate(places) if place.pair == shape.first + task and place.position in positions
    ]
    if not indices:
        raise FungiError(
            f"the grid has no element {positions.start} for pair {shape.first + task} of backbone and dataset: it is "
            "not the grid that this array was submitted for. Submit again with `fungi submit --missing`."
        )
    return indices


def array_text(indices: Iterable[int]) -> str:
    """`[0, 1, 2, 5]` -> `"0-2,5"`, as sbatch --array takes it."""
    spans: list[list[int]] = []
    for index in sorted(set(indices)):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def chunks(indices: Iterable[int], most: int = MAX_ARRAY) -> list[tuple[int, list[int]]]:
    """Return indices in parts that an array may have: (first index, indices counted from it, all below `most`)."""
    parts: dict[int, list[int]] = {}
    for index in sorted(set(indices)):
        parts.setdefault(index // most * most, []).append(index % most)
    return sorted(parts.items())


def _number(name: str, text: str | None) -> int:
    if text is None or not text.isdecimal():
        raise FungiError(f"{name} is {text!r}, not a number.")
    return int(text)
