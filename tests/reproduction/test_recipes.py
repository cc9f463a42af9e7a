"""Every published value and every figure has a recipe, and the packaged values equal the published values."""

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from fungi.errors import FungiError
from fungi.reproduction.outcome import our_value
from fungi.reproduction.plan import StepSettings, evaluation_step
from fungi.reproduction.recipe import Value, recipe, recipe_names, values_of
from fungi.results.published import mean_datasets, published_tables

PUBLISHED = Path(__file__).parents[3] / "shared" / "specs" / "paper_tables.json"
FIGURES = (2, 3, 5, 6, 8, 9, 10, 11, 12)


def all_values() -> list[Value]:
    """Return the values of all published tables."""
    return [value for name in published_tables() for value in values_of(name)]


@pytest.mark.skipif(not PUBLISHED.exists(), reason="paper_tables.json does not exist next to the project")
def test_packaged_values_equal_the_published_values() -> None:
    published = {table["id"]: table for table in json.loads(PUBLISHED.read_text())["tables"]}
    assert list(published_tables()) == list(published)
    for name, table in published_tables().items():
        assert [row["values"] for row in table["rows"]] == [row["values"] for row in published[name]["rows"]]
        assert [row.get("std") for row in table["rows"]] == [row.get("std") for row in published[name]["rows"]]


def test_every_published_value_has_a_recipe_or_is_quoted() -> None:
    values = all_values()
    assert len(values) == 661
    assert len(published_tables()) == 27
    quoted = [value for value in values if value.quoted]
    assert all(bool(value.evaluations) != bool(value.quoted) for value in values)
    assert len(quoted) == 6
    assert {value.table for value in quoted} == {"paper-3", "paper-4", "paper-7"}


def test_every_result_in_the_text_of_the_author_response_has_a_recipe_or_is_quoted() -> None:
    published_values = {
        "prose-mae": [51.43, 30],
        "prose-in-context": [88.7, 91.2],
        "prose-times": [17, 5180, 170, -28],
        "prose-gains": [4.4, 4.3, 2.1, 11, 15.8, 10.8],
    }
    assert {name for name in recipe_names() if name.startswith("prose")} == set(published_values)
    for name, published in published_values.items():
        values = values_of(name)
        assert [value.published for value in values] == published
        assert [bool(value.quoted) for value in values] == [value.published == 10.8 for value in values]
        assert all(bool(value.evaluations) != bool(value.quoted) for value in values)
    vit_h = next(value for value in values_of("prose-gains") if value.published == 2.1)
    omitted = {"cifar10", "cifar100", "food101", "imagenet-1k"}
    assert {evaluation.dataset for evaluation in vit_h.evaluations} == set(mean_datasets()) - omitted


@pytest.mark.parametrize(("relative", "expected"), [(False, -10), (True, -20)])
def test_a_gain_is_the_difference_of_two_entries_of_a_file(relative: bool, expected: float, tmp_path: Path) -> None:
    value = replace(values_of("prose-times")[-1], relative=relative)
    settings = StepSettings(tmp_path, tmp_path, "clean", "cpu")
    assert our_value(value, settings) is None
    (path,) = evaluation_step(value.evaluations[0], settings).outputs
    path.parent.mkdir(parents=True)
    path.write_text(ablation_result({"embeddings": [0.4, 0.6], "embeddings+kl": [0.4]}))
    assert our_value(value, settings) == (pytest.approx(expected), None)
    path.write_text(ablation_result({"embeddings": [0.4, 0.6]}))
    assert our_value(value, settings) is None


def ablation_result(rows: dict[str, list[float]]) -> str:
    """Return the text of a result file of an ablation. rows: row -> images per second of each seed."""
    results = {row: {"images/s": seeds} for row, seeds in rows.items()}
    return json.dumps({"settings": {}, "provenance": {}, "results": results})


def test_every_figure_has_a_recipe() -> None:
    assert {f"figure-{number}" for number in FIGURES} == {name for name in recipe_names() if name.startswith("figure")}
    assert all(values_of(f"figure-{number}") for number in FIGURES)


def test_every_entry_of_a_recipe_matches_a_value() -> None:
    """An entry that matches no value has a wrong pattern, or an earlier entry matches the same values."""

    def matches(entry: dict, row: dict, column: str) -> bool:
        is_row = all(row.get(field) == value for field, value in entry.get("rows", {}).items())
        return is_row and fnmatchcase(column, entry.get("columns", "*"))

    for name, table in published_tables().items():
        entries = recipe(name)["values"]
        pairs = [(row, column) for row in table["rows"] for column, value in row["values"].items() if value is not None]
        first_matches = {
            next(index for index, entry in enumerate(entries) if matches(entry, row, column)) for row, column in pairs
        }
        assert first_matches == set(range(len(entries))), name


def test_means_are_over_the_eleven_image_datasets() -> None:
    means = [
        value for value in values_of("paper-2") + values_of("paper-1") if value.column in ("full", "5-shot", "mean")
    ]
    assert all(tuple(evaluation.dataset for evaluation in value.evaluations) == mean_datasets() for value in means)
    assert len(means) == 56 + 8  # of table 2 and of table 1


def test_the_error_for_an_unknown_table_lists_similar_names() -> None:
    with pytest.raises(FungiError, match="paper-13"):
        values_of("paper-133")
