"""What `--choose` chose: the candidates of every run, at what they were judged, and what they scored."""

from collections.abc import Callable
from typing import Any

from fungi.results.text import aligned, plus_minus

CHOICE_COLUMNS = ("Features", "Judged on train", "Scored on test", "Chosen: features, components, neighbours")


def choice_table(content: dict[str, Any], metric: str) -> str:
    """The result as a table in percent: what was chosen in each run, at what it was judged, what it scored."""
    lines = [tuple(column.lower() for column in CHOICE_COLUMNS), *choice_rows(content, metric)]
    return aligned(lines)


def choice_rows(content: dict[str, Any], metric: str, named: Callable[[str], str] = str) -> list[tuple[str, ...]]:
    """What stands below `CHOICE_COLUMNS`: a row for each way to choose. named: what to call features."""
    runs = content.get("runs") or [content]
    rows: list[tuple[str, ...]] = []
    for name, entry in content["results"].items():
        picked = [run["results"][name]["chosen"] for run in runs]
        words = [f"{named(one['combination'])}, {one['dim']}, {one['k']}" for one in picked]
        judged = _percent(entry, "judged") if "judged" in entry else "-"
        rows.append((named(name), judged, _percent(entry, metric), "; ".join(dict.fromkeys(words))))
    return rows


def _percent(entry: dict[str, Any], metric: str) -> str:
    deviation = entry.get(f"{metric}-std")
    return plus_minus(100 * entry[metric], None if deviation is None else 100 * deviation)
