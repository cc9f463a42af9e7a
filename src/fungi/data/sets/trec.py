"""`trec`: questions by the type of their answer, six coarse classes (spec text 2)."""

from collections.abc import Sequence

from fungi.data.formats.text_tables import PARQUET_REVISION, TextTable, register_table

CLASSES = ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM")
KNOWN_QUESTION = "How far is it from Denver to Aspen ?"
"""Question whose label is wrong in an old revision of the dataset."""


def _error_of_old_labels(texts: Sequence[str], labels: Sequence[int]) -> str | None:
    """Return an error message if the labels are from an old revision with wrong labels; None otherwise."""
    if KNOWN_QUESTION in texts and labels[texts.index(KNOWN_QUESTION)] != CLASSES.index("NUM"):
        return f"{KNOWN_QUESTION!r} is not labelled NUM. These are labels of an old, wrong revision. Download it again."
    return None


TABLE = TextTable(
    dataset="trec",
    repository="CogComp/trec",
    revision=PARQUET_REVISION,
    label="coarse_label",
    class_names=CLASSES,
    check=_error_of_old_labels,
)
register_table(TABLE, title="TREC question classification", sizes={"train": 5452, "test": 500})
