"""Uncertainty of scores: standard errors, McNemar's test, and the words "within noise"."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from fungi.evaluators.metrics import classification_scores
from fungi.report.cells import Cell, ResultRecord, cells_of, without_duplicates
from fungi.report.report_page import report_page
from fungi.report.summary import findings, headings
from fungi.report.tables import make_tables, to_csv, to_markdown
from fungi.report.uncertainty import uncertainties
from tests.evaluation.test_report import cells, content

GENERATOR = np.random.default_rng(0)
ROWS = 200
TARGETS = np.arange(ROWS) % 4


def predicted(share: float, seed: int) -> list[int]:
    """Return predictions of which about `share` are correct."""
    generator = np.random.default_rng(seed)
    correct = generator.random(ROWS) < share
    return np.where(correct, TARGETS, (TARGETS + 1) % 4).tolist()


def result(shares: dict[str, float], targets: np.ndarray = TARGETS, **settings) -> dict:
    record = content({}, **settings) | {"test_targets": targets.tolist()}
    for number, (name, share) in enumerate(shares.items()):
        guesses = np.array(predicted(share, number))[: len(targets)]
        record["results"][name] = {**classification_scores(guesses, targets), "predictions": guesses.tolist()}
    return record


def test_the_p_value_of_mcnemars_exact_test_equals_scipys_binomial_test() -> None:
    record = result({"embeddings": 0.7, "embeddings+kl": 0.8, "kl": 0.71})
    by_combination = uncertainties(record, "accuracy")
    correct = {name: np.array(scores["predictions"]) == TARGETS for name, scores in record["results"].items()}
    for name in ("embeddings+kl", "kl"):
        gained = int((correct[name] & ~correct["embeddings"]).sum())
        lost = int((~correct[name] & correct["embeddings"]).sum())
        assert by_combination[name].p_value == pytest.approx(binomtest(gained, gained + lost).pvalue)
    assert by_combination["embeddings"].p_value is None
    same = result({"embeddings": 0.7})
    same["results"]["kl"] = same["results"]["embeddings"]
    assert uncertainties(same, "accuracy")["kl"].p_value == 1.0


@pytest.mark.parametrize("metric", ["accuracy", "mean-per-class-accuracy"])
def test_standard_errors_equal_the_bootstrap(metric: str) -> None:
    """Rows are drawn with replacement; for the mean over classes, they are drawn within each class."""
    record = result({"embeddings": 0.7})
    guesses = np.array(record["results"]["embeddings"]["predictions"])
    generator, drawn = np.random.default_rng(1), []
    for _ in range(2000):
        if metric == "accuracy":
            rows = generator.integers(0, ROWS, ROWS)
        else:
            rows = np.concatenate([generator.choice(np.flatnonzero(c == TARGETS), 50) for c in range(4)])
        drawn.append(classification_scores(guesses[rows], TARGETS[rows])[metric])
    assert uncertainties(record, metric)["embeddings"].error == pytest.approx(np.std(drawn), rel=0.1)


def test_several_runs_are_tested_with_the_means_of_their_rows() -> None:
    runs = [{"results": result({"embeddings": 0.7, "kl": 0.9})["results"], "warnings": []} for _ in range(3)]
    record = result({"embeddings": 0.7, "kl": 0.9}) | {"runs": runs}
    assert uncertainties(record, "accuracy")["kl"].p_value < 0.01
    assert uncertainties(record | {"test_targets": []}, "accuracy") == {}


def text_of(record: dict) -> str:
    return " ".join(f"{finding.title}: {finding.text}" for finding in findings(cells(record)))


def test_a_gain_within_noise_is_marked_in_the_summary_and_in_tables() -> None:
    few = result({"embeddings": 0.70, "embeddings+kl": 0.78}, TARGETS[:12])
    summary, table = text_of(few), to_markdown(make_tables(cells(few)))
    assert "within noise (p = " in summary
    assert ", 12 rows)" in summary
    assert "~)" in table.partition("| backbone")[2]
    assert "| cars (12) |" in table
    many = result({"embeddings": 0.5, "embeddings+kl": 0.9})
    assert "within noise" not in text_of(many)
    assert "~)" not in to_markdown(make_tables(cells(many))).partition("| backbone")[2]
    assert "rows,standard_error" in to_csv(cells(many)).splitlines()[0]


def test_a_table_without_pca_says_so() -> None:
    record = result({"embeddings": 0.5, "embeddings+kl": 0.9})
    for scores in record["results"].values():
        scores["pca"] = {"applied": False, "reason": "small", "dim": 64}
    assert "no PCA" in to_markdown(make_tables(cells(record)))
    record["results"]["embeddings+kl"]["pca"] = {"applied": True, "dim": 512}
    assert "PCA 512" in to_markdown(make_tables(cells(record)))


def page(*contents: dict) -> str:
    records = [ResultRecord(Path("x.json"), record) for record in contents]
    distinct_cells = without_duplicates([cell for record in records for cell in cells_of(record)])
    return report_page(records, distinct_cells, make_tables(distinct_cells), [], [])


def test_two_protocols_never_share_a_heading() -> None:
    contents = [content({"embeddings": 0.3, "kl": 0.4}, **change) for change in ({}, {"k": 5}, {"profile": "clean"})]
    titles = headings(cell.protocol for record in contents for cell in cells(record))
    assert len(set(titles.values())) == len(titles) == 3
    text = page(*contents)
    tables = [part.partition("</h3>")[0] for part in text.split("<h3>")[1:]]
    statements = [part.partition("</dt>")[0] for part in text.split("<dt>")[1:]]
    assert len(set(tables)) == len(tables) == 3
    assert len(set(statements)) == len(statements) == 3


def test_clustering_is_described_as_fitted_without_labels() -> None:
    record = content({"embeddings": 0.3}) | {"task": "clustering"}
    assert "all scored rows, fitted without labels" in page(record)
    assert "all train rows" not in page(record)


@pytest.mark.parametrize(
    ("scores", "bold"),
    [
        ({"embeddings": 0.3, "kl": 0.5, "embeddings+kl": 0.5}, ["50.0"]),
        ({"embeddings": 0.5, "kl": 0.5, "embeddings+kl": 0.5}, []),
    ],
)
def test_at_most_one_score_is_bold(scores: dict, bold: list) -> None:
    text = page(content(scores))
    assert [part.partition("<")[0] for part in text.split("class='best'>")[1:]] == bold


def test_a_cell_records_its_number_of_rows() -> None:
    record = result({"embeddings": 0.5})
    (cell,) = cells(record)
    assert isinstance(cell, Cell)
    assert (cell.rows, cell.within_noise) == (ROWS, False)


def test_the_task_of_an_own_evaluator_keeps_its_name() -> None:
    (cell,) = cells(content({"embeddings": 0.5}) | {"task": "nearest-mean-5shot"})
    assert cell.protocol.task == "nearest-mean"


def test_the_error_of_correct_predictions_alone_is_half_of_wilsons_interval() -> None:
    record = result({"embeddings": 1.0}, np.zeros(6, dtype=int))
    record["results"]["embeddings"]["predictions"] = [0] * 6
    interval = binomtest(6, 6).proportion_ci(confidence_level=0.6826894921, method="wilson")
    error = uncertainties(record, "accuracy")["embeddings"].error
    assert error == pytest.approx((interval.high - interval.low) / 2)


def test_features_of_the_same_score_are_called_equal() -> None:
    record = result({"embeddings": 0.7})
    record["results"]["embeddings+kl"] = record["results"]["embeddings"]
    assert "equal to the embeddings" in text_of(record)
    assert "0.0 points" not in text_of(record)
