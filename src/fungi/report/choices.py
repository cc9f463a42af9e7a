"""The section of the report with what `--choose` chose."""

from collections.abc import Iterable

from fungi.report.cells import ResultRecord, metric_of
from fungi.results.choice_table import choice_table

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
        if record.choice
    ]
    return "\n".join(["# What was chosen", "", EXPLAINED, "", *parts, ""]) if parts else ""
