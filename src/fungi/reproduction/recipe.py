"""Recipes: which commands give a published value. One TOML file a table or figure, in `recipes/`.

    evaluation = "knn"                    # the command that scores; extraction follows from the features it needs
    flags = "--pca-dim 512"               # for all values of the table
    seeds = [42, 43, 44]                  # extractions to average over; [42] if absent
    [[values]]                            # the first entry that fits a value is its recipe
    rows = { setting = "5-shot" }         # fields of the published row; any if absent
    columns = "*/5-shot"                  # pattern of the column's name; any if absent
    datasets = "eleven"                   # or a list; the column's own (`trec/full`: trec), or the table's, if absent
    flags = "--shots 5"                   # `{column}` and fields of the row are filled in
    metric = "mAP-M"                      # of the result file; the dataset's own if absent
    cell = ["{gradient}", "accuracy"]     # row and column of an ablation's table, in place of combination and metric
    quoted = "by whom"                    # not ours to measure: taken from other work

Figures have no published values: they name `backbones`, `datasets` and `features`, or the tables they are `like`.
What the author response says in prose alone has its values in the recipe:

    [[results]]                           # beside the fields of a figure and of a table's entry
    row = "gain, all gradients"
    column = "5-shot"
    published = 4.4
    combination = "embeddings+kl"         # or `cell`
    over = "embeddings"                   # of the same kind: the value is the difference to it,
    relative = true                       # as a share of it
"""

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from fungi.errors import unknown_name
from fungi.results.published import mean_datasets, published_tables
from fungi.store.layout import EMBEDDINGS

ELEVEN = "eleven"
PAPER_SEED = 42


@dataclass(frozen=True)
class Evaluation:
    """A command of one dataset and backbone. features: what it needs extracted; none for commands that extract."""

    command: str
    dataset: str
    backbone: str
    features: tuple[str, ...]
    flags: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A published value, or a number of a figure, and where ours comes from: the mean over the evaluations.

    published, std: in the table's unit; None for figures. scale: from our results' unit to the table's.
    cell: row and column of an ablation's table; else `metric` of `combination` is read.
    over: what the value is a difference to, of the same kind; None for the value itself. relative: as a share of it.
    """

    table: str
    row: str
    column: str
    published: float | None
    std: float | None
    evaluations: tuple[Evaluation, ...]
    combination: str
    metric: str | None
    cell: tuple[str, str] | None
    scale: float
    quoted: str
    over: "str | tuple[str, str] | None" = None
    relative: bool = False


def recipe_names() -> list[str]:
    """Names of all recipes, tables of the paper first."""
    names = [entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml")]
    order = ("paper", "rebuttal", "prose", "figure")
    return sorted(names, key=lambda name: (order.index(name.split("-")[0]), int(re.sub(r"\D", "", name) or 0), name))


@cache
def recipe(name: str) -> dict[str, Any]:
    """The recipe of a table or figure as plain data; FungiError for a name that is none."""
    if name not in recipe_names():
        raise unknown_name("table or figure", name, recipe_names())
    return tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))


def title_of(name: str) -> str:
    """The comment at the head of the recipe."""
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def values_of(name: str) -> list[Value]:
    """All values of a table or figure, with their recipes."""
    found, tables = recipe(name), published_tables()
    if name in tables:
        return list(_table_values(name, found, tables[name]))
    if "like" in found:
        return [value for other in found["like"] for value in values_of(other)]
    return [_prose_value(name, found | entry) for entry in found.get("results", ())] or list(
        _figure_values(name, found)
    )


def _table_values(name: str, found: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[Value]:
    features = _features_of(table["rows"])
    for row in table["rows"]:
        for column, published in row["values"].items():
            if published is not None:
                entry = _entry_for(name, found["values"], row, column)
                merged = {**found, **entry, "flags": f"{found.get('flags', '')} {entry.get('flags', '')}"}
                yield _value(name, merged, table, row, column, features[row["backbone"]])


def _entry_for(
    name: str, entries: Sequence[Mapping[str, Any]], row: Mapping[str, Any], column: str
) -> Mapping[str, Any]:
    for entry in entries:
        fits = all(row.get(field) == wanted for field, wanted in entry.get("rows", {}).items())
        if fits and fnmatchcase(column, entry.get("columns", "*")):
            return entry
    raise AssertionError(f"{name} has no recipe for column {column!r} of row {row}")


def _value(
    name: str,
    entry: Mapping[str, Any],
    table: Mapping[str, Any],
    row: Mapping[str, Any],
    column: str,
    features: tuple[str, ...],
) -> Value:
    words = {
        field: {True: "yes", False: "no"}[value] if isinstance(value, bool) else value for field, value in row.items()
    }
    words["column"] = column
    flags = tuple(shlex.split(entry["flags"].format(**words)))
    command, seeds = entry["evaluation"], tuple(entry.get("seeds", (PAPER_SEED,)))
    evaluations = tuple(
        Evaluation(command, dataset, row["backbone"], features if command in SCORED else (), flags, seeds)
        for dataset in _datasets(entry, table, column)
    )
    return Value(
        table=name,
        row=", ".join(str(words[field]) for field in row if field not in ("values", "std", "default")),
        column=column,
        published=float(row["values"][column]),
        std=row.get("std", {}).get(column),
        evaluations=() if "quoted" in entry else evaluations,
        combination=row.get("combination") or "",
        metric=entry.get("metric"),
        cell=tuple(text.format(**words) for text in entry["cell"]) if "cell" in entry else None,
        scale=float(entry.get("scale", 100)),
        quoted=entry.get("quoted", ""),
    )


SCORED = ("knn", "linear", "retrieval", "cluster", "analyse", "in-context")
"""Commands that score extracted features; the others of the recipes extract what they need."""


def _datasets(entry: Mapping[str, Any], table: Mapping[str, Any], column: str) -> Sequence[str]:
    named = entry.get("datasets")
    if named == ELEVEN or (named is None and column == "mean"):
        return mean_datasets()
    return named or [table.get("dataset") or column.partition("/")[0]]


def _prose_value(name: str, entry: Mapping[str, Any]) -> Value:
    command, flags = entry["evaluation"], tuple(shlex.split(entry.get("flags", "")))
    features = tuple(entry.get("features", ())) if command in SCORED else ()
    evaluations = tuple(
        Evaluation(command, dataset, entry["backbone"], features, flags, (PAPER_SEED,))
        for dataset in _datasets(entry, {}, entry["column"])
    )
    cell, over = (tuple(found) if isinstance(found := entry.get(key), list) else found for key in ("cell", "over"))
    return Value(
        table=name,
        row=entry["row"],
        column=entry["column"],
        published=float(entry["published"]),
        std=None,
        evaluations=() if "quoted" in entry else evaluations,
        combination=entry.get("combination", ""),
        metric=entry.get("metric"),
        cell=cell,
        scale=float(entry.get("scale", 100)),
        quoted=entry.get("quoted", ""),
        over=over,
        relative=entry.get("relative", False),
    )


def _figure_values(name: str, found: Mapping[str, Any]) -> Iterator[Value]:
    features = tuple(found.get("features", (EMBEDDINGS, "kl", "dino", "simclr")))
    flags = tuple(shlex.split(found.get("flags", "")))
    datasets = mean_datasets() if found["datasets"] == ELEVEN else found["datasets"]
    for backbone in found["backbones"]:
        evaluations = tuple(
            Evaluation(
                command, dataset, backbone, features if command in SCORED else (), flags * (not extra), (PAPER_SEED,)
            )
            for dataset in datasets
            for extra, command in enumerate((found["evaluation"], *found.get("also", ())))
        )
        yield Value(name, backbone, "", None, None, evaluations, "", None, None, 100.0, "")


def _features_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Backbone -> all features that its rows combine, in their order."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        found.setdefault(row["backbone"], {}).update(dict.fromkeys((row.get("combination") or "").split("+")))
    order = (EMBEDDINGS, "kl", "dino", "simclr")
    return {backbone: tuple(name for name in order if name in names) for backbone, names in found.items()}


def _folder() -> Any:
    return files("fungi.reproduction") / "recipes"
