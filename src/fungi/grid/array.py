"""Array indices: what SLURM tells a job about its element, and how a set of indices is written."""

from collections.abc import Iterable, Mapping

from fungi.errors import FungiError

PARTIAL, FIRST, ELEMENT = "FUNGI_PARTIAL", "FUNGI_FIRST", "FUNGI_ELEMENT"
MAX_ARRAY = 1000
"""Indices of one array, unless SLURM's MaxArraySize (1001, if no administrator changed it) is smaller."""
_NAMES = ("JOB_ID", "TASK_ID", "TASK_COUNT", "TASK_MIN", "TASK_MAX")


def chosen_indices(environ: Mapping[str, str], count: int, pack: int = 1) -> list[int]:
    """The indices that this process has to do, of a grid of `count` elements.

    Those of its array task in an array, `pack` of them; all outside of an array; the one of FUNGI_ELEMENT, if that is
    set. Raises FungiError for variables that are
    half set, and for an array that is not the grid's: either would leave work undone, or do it again, in silence. An
    array that is a part of the grid on purpose says so with FUNGI_PARTIAL=1, and with FUNGI_FIRST=N that its index 0 is
    element N (for grids that are larger than SLURM lets an array be).
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
    return list(range((first + index) * pack, min((first + index + 1) * pack, count)))


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
    """Indices in parts that an array may have: (first index, indices counted from it, all below `most`)."""
    found: dict[int, list[int]] = {}
    for index in sorted(set(indices)):
        found.setdefault(index // most * most, []).append(index % most)
    return sorted(found.items())


def _number(name: str, text: str | None) -> int:
    if text is None or not text.isdecimal():
        raise FungiError(f"{name} is {text!r}, not a number.")
    return int(text)
