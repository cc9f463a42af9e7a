"""Write the section of the markdown report on results of `--choose`."""

from collections.abc import Iterable

from fungi.report.cells import ResultRecord, metric_of
from fungi.results.choice_table import choice_table

EXPLANATION = (
    "Features, components and neighbours were chosen by their leave-one-out score on the train rows. `hindsight` is "
    "the best test score of all candidates. Only the test labels can tell which candidate it is."
)


def choices(records: Iterable[ResultRecord]) -> str:
    """Return a section with a table for each result of `--choose`; empty if there are no such results."""
    parts = [
        f"## {record.content['settings']['dataset']}, {record.content['settings']['backbone']}, "
        f"{record.content['task']}\n\n```\n{choice_table(record.content, metric_of(record.content))}\n```\n"
        for record in records
        if record.has_choice
    ]
    return "\n".join(["# Choices on the train rows", "", EXPLANATION, "", *parts, ""]) if parts else ""
