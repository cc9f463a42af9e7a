"""What `--choose` chose: the candidates of every run, at what they were judged, and what they scored."""

from collections.abc import Iterable
from typing import Any

from fungi.report.cells import ResultRecord, metric_of

EXPLAINED = (
    "Features, components and neighbours were chosen on the train rows, by leaving one out; `hindsight` is the best "
    "that any candidate scored, which nobody can choose without the test labels."
)


def choices(records: Iterable[ResultRecord]) -> str:
    """A section of the report with a table for every result of `--choose`; empty where there is none."""
    parts = [
        f"## {record.content['settings']['dataset']}, {record.content['settings']['backbone']}, "
        f"{record.content['task']}\n\n```\n{choice_table(record.content, metric_of(record.content))}\n```\n"
        for record in records
        if record.content["settings"].get("choose")
    ]
    return "\n".join(["# What was chosen", "", EXPLAINED, "", *parts, ""]) if parts else ""


def choice_table(content: dict[str, Any], metric: str) -> str:
    """The result as a table in percent: what was chosen in each run, at what it was judged, what it scored."""
    runs = content.get("runs") or [content]
    lines = [("features", "judged on train", "scored on test", "chosen: features, components, neighbours")]
    for name, entry in content["results"].items():
        picked = [run["results"][name]["chosen"] for run in runs]
        words = [f"{one['combination']}, {one['dim']}, {one['k']}" for one in picked]
        judged = _percent(entry, "judged") if "judged" in entry else "-"
        lines.append((name, judged, _percent(entry, metric), "; ".join(dict.fromkeys(words))))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _percent(entry: dict[str, Any], metric: str) -> str:
    deviation = f" ± {100 * entry[f'{metric}-std']:.1f}" if f"{metric}-std" in entry else ""
    return f"{100 * entry[metric]:.1f}{deviation}"
