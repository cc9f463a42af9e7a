"""A damaged result file is detected, and its evaluation runs again."""

import json

import pytest

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.results.result_file import read_result
from tests.evaluation.feature_folder import make_folder


def test_a_changed_digit_of_a_result_is_refused_and_scored_again(tmp_path):
    make_folder(tmp_path)
    command = ["--dataset", "digits", "--root", str(tmp_path), "--k", "3"]
    assert COMMANDS["knn"].main(command) == 0
    (file,) = (tmp_path / "results").rglob("*.json")
    expected, text = read_result(file), file.read_text(encoding="utf-8")
    accuracy = f'"accuracy": {next(iter(expected["results"].values()))["accuracy"]}'
    assert accuracy in text
    file.write_text(text.replace(accuracy, '"accuracy": 0.125', 1), encoding="utf-8")
    with pytest.raises(FungiError, match="damaged or was edited"):
        read_result(file)
    assert COMMANDS["knn"].main(command) == 0
    assert read_result(file)["results"] == expected["results"]


def test_a_result_without_a_checksum_is_read(tmp_path):
    file = tmp_path / "own.json"
    file.write_text(
        json.dumps({"settings": {}, "provenance": {}, "results": {"a": {"accuracy": 1.0}}}), encoding="utf-8"
    )
    assert read_result(file)["results"] == {"a": {"accuracy": 1.0}}
