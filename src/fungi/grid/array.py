"""Array indices: what SLURM tells a job about its element, and how a set of indices is written."""

from collections.abc import Iterable, Mapping

from fungi.errors import FungiError

PARTIAL, FIRST = "FUNGI_PARTIAL", "FUNGI_FIRST"
MAX_ARRAY = 1000
"""Indices of one array: SLURM's MaxArraySize is 1001 unless an administrator changed it."""
_NAMES = ("JOB_ID", "TASK_ID", "TASK_COUNT", "TASK_MIN", "TASK_MAX")


def chosen_indices(environ: Mapping[str, str], count: int) -> list[int]:
    """The indices that this process has to do, of a grid of `count` elements.

    The one of its array task in an array; all of them outside of an array. Raises FungiError for variables that are
    half set, and for an array that is not the grid's: either would leave work undone, or do it again, in silence. An
    array that is a part of the grid on purpose says so with FUNGI_PARTIAL=1, and with FUNGI_FIRST=N that its index 0 is
    element N (for grids that are larger than SLURM lets an array be).
    """
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
    whole = f"sbatch --array={array_text(range(count))}"
    if first + high >= count:
        raise FungiError(f"the array goes up to element {first + high} of a grid of {count}. Use {whole}.")
    if not (low <= index <= high and 1 <= size <= high - low + 1):
        raise FungiError(
            f"the variables of the SLURM array contradict each other: task {index} of {size}, from {low} to {high}."
        )
    if size < count and environ.get(PARTIAL) != "1":
        raise FungiError(
            f"the array has {size} of the grid's {count} elements. Use {whole}, or `fungi submit`; "
            f"with {PARTIAL}=1 a part is done on purpose."
        )
    return [first + index]


def array_text(indices: Iterable[int]) -> str:
    """`[0, 1, 2, 5]` -> `"0-2,5"`, as sbatch --array takes it."""
    spans: list[list[int]] = []
    for index in sorted(set(indices)):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def chunks(indices: Iterable[int]) -> list[tuple[int, list[int]]]:
    """Indices in parts that an array may have: (first element, indices counted from it)."""
    found: dict[int, list[int]] = {}
    for index in sorted(set(indices)):
        found.setdefault(index // MAX_ARRAY * MAX_ARRAY, []).append(index % MAX_ARRAY)
    return sorted(found.items())


def _number(name: str, text: str | None) -> int:
    if text is None or not text.isdecimal():
        raise FungiError(f"{name} is {text!r}, not a number.")
    return int(text)
