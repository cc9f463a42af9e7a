"""Table of a result of `--choose`: the chosen candidate of each run and its scores on the train and test rows."""

from collections.abc import Callable
from typing import Any

from fungi.results.result_file import runs_of
from fungi.results.text import aligned, plus_minus

CHOICE_COLUMNS = ("Features", "Score on train", "Score on test", "Chosen: features, components, neighbours")


def choice_table(content: dict[str, Any], metric: str) -> str:
    """Return the result as a table in percent, with the columns `CHOICE_COLUMNS`."""
    lines = [tuple(column.lower() for column in CHOICE_COLUMNS), *choice_rows(content, metric)]
    return aligned(lines)


def choice_rows(
    content: dict[str, Any], metric: str, display_name: Callable[[str], str] = str
) -> list[tuple[str, ...]]:
    """Return the rows below `CHOICE_COLUMNS`, one per entry of the results.

    display_name: function that returns the text to print for the name of a combination.
    """
    rows: list[tuple[str, ...]] = []
    for name, scores in content["results"].items():
        choices = [run["results"][name]["chosen"] for run in runs_of(content)]
        texts = [f"{display_name(choice['combination'])}, {choice['dim']}, {choice['k']}" for choice in choices]
        # `judged` is the score on the train rows by which the candidate was chosen.
        train_score = _percent(scores, "judged") if "judged" in scores else "-"
        rows.append((display_name(name), train_score, _percent(scores, metric), "; ".join(dict.fromkeys(texts))))
    return rows


def _percent(scores: dict[str, Any], metric: str) -> str:
    """Return a score in percent, with its deviation if there are several runs."""
    deviation = scores.get(f"{metric}-std")
    return plus_minus(100 * scores[metric], None if deviation is None else 100 * deviation)
