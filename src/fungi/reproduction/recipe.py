"""Recipes: the commands that reproduce a published value. There is one TOML file per table or figure, in `recipes/`.

    evaluation = "knn"                    # command of the evaluation; its features decide the extraction
    flags = "--pca-dim 512"               # flags for all values of the table
    seeds = [42, 43, 44]                  # seeds of the extractions to average over; default [42]
    [[values]]                            # the first entry that matches a value is its recipe
    rows = { setting = "5-shot" }         # required fields of the published row; default: any row
    columns = "*/5-shot"                  # pattern for the column name; default: any column
    datasets = "eleven"                   # or a list; default: dataset of the column (`trec/full`: trec) or the table
    flags = "--shots 5"                   # `{column}` and fields of the row are filled in
    metric = "mAP-M"                      # entry of the result file; default: the metric of the dataset
    cell = ["{gradient}", "accuracy"]     # (row, column) of the table of an ablation; replaces combination and metric
    quoted = "source"                     # the paper quotes this value from other work, so it is not reproduced

Figures have no published values. Their recipes name `backbones`, `datasets`, `features` and further commands (`also`),
or the tables with the same values (`like`). If a value is only in the text of the author response, its recipe lists it:

    [[results]]                           # fields of a figure and of an entry of a table, and these fields:
    row = "gain, all gradients"
    column = "5-shot"
    published = 4.4
    combination = "embeddings+kl"         # or `cell`
    over = "embeddings"                   # combination (or cell) to subtract; the value is a difference
    relative = true                       # divide the difference by the subtracted value
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
"""Value of `datasets` in a recipe: the eleven datasets of the averaged results."""
PAPER_SEED = 42


@dataclass(frozen=True)
class Evaluation:
    """A command that scores one backbone on one dataset.

    features: the features to read; empty if the command extracts them. flags: the flags of the recipe, such as `--shots
    5`. seeds: the seeds of the extractions.
    """

    command: str
    dataset: str
    backbone: str
    features: tuple[str, ...]
    flags: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A published value, or a number of a figure. Our value is the mean over the evaluations.

    published, std: value and deviation in the unit of the table; None for figures.
    scale: factor from our unit to the unit of the table.
    cell: (row, column) of the table of an ablation. With None, our value is `metric` of `combination`.
    over: combination or cell to subtract; None if the value is not a difference.
    relative: whether to divide the difference by the subtracted value.
    quoted: source of a value that is not reproduced; empty for other values.
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
    """Return the names of all recipes; tables of the paper come first."""
    file_names = [path.name for path in _folder().iterdir()]
    return sorted((name.removesuffix(".toml") for name in file_names if name.endswith(".toml")), key=_sorting_key)


def _sorting_key(name: str) -> tuple[int, int, str]:
    """Return the position of the kind of a recipe, its number (0 for a recipe without a number), and its name."""
    kinds = ("paper", "rebuttal", "prose", "figure")
    return kinds.index(name.split("-")[0]), int(re.sub(r"\D", "", name) or 0), name


@cache
def recipe(name: str) -> dict[str, Any]:
    """Return the recipe of a table or figure as plain data. Raises FungiError for an unknown name."""
    if name not in recipe_names():
        raise unknown_name("table or figure", name, recipe_names())
    return tomllib.loads((_folder() / f"{name}.toml").read_text(encoding="utf-8"))


def title_of(name: str) -> str:
    """Return the title of a table or figure: the comment in the first line of its recipe."""
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def values_of(name: str) -> list[Value]:
    """Return all values of a table or figure, with their evaluations."""
    content, tables = recipe(name), published_tables()
    if name in tables:
        return list(_table_values(name, content, tables[name]))
    if "like" in content:
        return [value for table in content["like"] for value in values_of(table)]
    prose_values = [_prose_value(name, content | entry) for entry in content.get("results", ())]
    return prose_values or list(_figure_values(name, content))


def _table_values(name: str, content: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[Value]:
    """Yield the values of a published table. content: its recipe."""
    features = _features_of(table["rows"])
    for row in table["rows"]:
        for column, published in row["values"].items():
            if published is not None:
                entry = _entry_for(name, content["values"], row, column)
                merged = {**content, **entry, "flags": f"{content.get('flags', '')} {entry.get('flags', '')}"}
                yield _value(name, merged, table, row, column, features[row["backbone"]])


def _entry_for(
    name: str, entries: Sequence[Mapping[str, Any]], row: Mapping[str, Any], column: str
) -> Mapping[str, Any]:
    """Return the first entry of the recipe that matches a published value."""
    for entry in entries:
        fits = all(row.get(field) == value for field, value in entry.get("rows", {}).items())
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
    """Return the value of a column in a row of a published table.

    name: name of the recipe. entry: the matching entry, merged with the recipe. features: the features to extract.
    """
    texts = {field: _yes_or_no(value) if isinstance(value, bool) else value for field, value in row.items()}
    texts["column"] = column
    flags = tuple(shlex.split(entry["flags"].format(**texts)))
    command, seeds = entry["evaluation"], tuple(entry.get("seeds", (PAPER_SEED,)))
    evaluations = tuple(
        Evaluation(command, dataset, row["backbone"], features if command in SCORING_COMMANDS else (), flags, seeds)
        for dataset in _datasets(entry, table, column)
    )
    return Value(
        table=name,
        row=", ".join(str(texts[field]) for field in row if field not in ("values", "std", "default")),
        column=column,
        published=float(row["values"][column]),
        std=row.get("std", {}).get(column),
        evaluations=() if "quoted" in entry else evaluations,
        combination=row.get("combination") or "",
        metric=entry.get("metric"),
        cell=tuple(text.format(**texts) for text in entry["cell"]) if "cell" in entry else None,
        scale=float(entry.get("scale", 100)),
        quoted=entry.get("quoted", ""),
    )


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


SCORING_COMMANDS = ("knn", "linear", "retrieval", "cluster", "analyse", "in-context")
"""Commands that score extracted features. The other commands of the recipes extract their features themselves."""


def _datasets(entry: Mapping[str, Any], table: Mapping[str, Any], column: str) -> Sequence[str]:
    """Return the datasets that the entry names. If it names none, return the dataset of the table or of the column."""
    datasets = entry.get("datasets")
    if datasets == ELEVEN or (datasets is None and column == "mean"):
        return mean_datasets()
    return datasets or [table.get("dataset") or column.partition("/")[0]]


def _prose_value(name: str, entry: Mapping[str, Any]) -> Value:
    """Return a value that is only in the text of the author response. entry: its entry in the recipe."""
    command, flags = entry["evaluation"], tuple(shlex.split(entry.get("flags", "")))
    features = tuple(entry.get("features", ())) if command in SCORING_COMMANDS else ()
    evaluations = tuple(
        Evaluation(command, dataset, entry["backbone"], features, flags, (PAPER_SEED,))
        for dataset in _datasets(entry, {}, entry["column"])
    )
    over = entry.get("over")
    return Value(
        table=name,
        row=entry["row"],
        column=entry["column"],
        published=float(entry["published"]),
        std=None,
        evaluations=() if "quoted" in entry else evaluations,
        combination=entry.get("combination", ""),
        metric=entry.get("metric"),
        cell=tuple(entry["cell"]) if "cell" in entry else None,
        scale=float(entry.get("scale", 100)),
        quoted=entry.get("quoted", ""),
        over=tuple(over) if isinstance(over, list) else over,
        relative=entry.get("relative", False),
    )


def _figure_values(name: str, content: Mapping[str, Any]) -> Iterator[Value]:
    """Yield a value without a number for each backbone of a figure. content: the recipe."""
    features = tuple(content.get("features", (EMBEDDINGS, "kl", "dino", "simclr")))
    flags = tuple(shlex.split(content.get("flags", "")))
    datasets = mean_datasets() if content["datasets"] == ELEVEN else content["datasets"]
    # `flags` of the recipe are only for `evaluation`; the commands in `also` have none.
    flags_of_commands = {content["evaluation"]: flags} | dict.fromkeys(content.get("also", ()), ())
    for backbone in content["backbones"]:
        evaluations = tuple(
            Evaluation(
                command,
                dataset,
                backbone,
                features if command in SCORING_COMMANDS else (),
                command_flags,
                (PAPER_SEED,),
            )
            for dataset in datasets
            for command, command_flags in flags_of_commands.items()
        )
        yield Value(
            table=name,
            row=backbone,
            column="",
            published=None,
            std=None,
            evaluations=evaluations,
            combination="",
            metric=None,
            cell=None,
            scale=100.0,
            quoted="",
        )


def _features_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Return for each backbone the features that its rows contain, in canonical order."""
    features: dict[str, dict[str, None]] = {}
    for row in rows:
        features.setdefault(row["backbone"], {}).update(dict.fromkeys((row.get("combination") or "").split("+")))
    order = (EMBEDDINGS, "kl", "dino", "simclr")
    return {backbone: tuple(name for name in order if name in names) for backbone, names in features.items()}


def _folder() -> Any:
    return files("fungi.reproduction") / "recipes"
