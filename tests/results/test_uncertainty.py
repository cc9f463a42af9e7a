"""Uncertainty of scores: standard errors, McNemar's test, and the marks for gains within noise."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from fungi.evaluators.metrics import classification_scores
from fungi.report.cells import Cell, ResultRecord, cells_of, without_duplicates
from fungi.report.report_page import report_page
from fungi.report.summary import findings, headings
from fungi.report.tables import make_tables, to_csv, to_markdown
from fungi.report.uncertainty import uncertainties
from tests.evaluation.test_report import cells, content

ROWS = 200
TARGETS = np.arange(ROWS) % 4


def random_predictions(share: float, seed: int) -> list[int]:
    """Return predictions. About `share` of them are correct."""
    generator = np.random.default_rng(seed)
    correct = generator.random(ROWS) < share
    return np.where(correct, TARGETS, (TARGETS + 1) % 4).tolist()


def result(shares: dict[str, float], targets: np.ndarray = TARGETS, **settings) -> dict:
    """Return a result with random predictions. shares: combination -> share of correct predictions."""
    record = content({}, **settings) | {"test_targets": targets.tolist()}
    for number, (name, share) in enumerate(shares.items()):
        predictions = np.array(random_predictions(share, number))[: len(targets)]
        scores = classification_scores(predictions, targets)
        record["results"][name] = {**scores, "predictions": predictions.tolist()}
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
    with_equal_scores = result({"embeddings": 0.7})
    with_equal_scores["results"]["kl"] = with_equal_scores["results"]["embeddings"]
    assert uncertainties(with_equal_scores, "accuracy")["kl"].p_value == 1.0


@pytest.mark.parametrize("metric", ["accuracy", "mean-per-class-accuracy"])
def test_standard_errors_equal_the_bootstrap(metric: str) -> None:
    """The bootstrap draws rows with replacement. For the mean over classes, it draws within each class."""
    record = result({"embeddings": 0.7})
    predictions = np.array(record["results"]["embeddings"]["predictions"])
    generator, bootstrap_scores = np.random.default_rng(1), []
    for _ in range(2000):
        if metric == "accuracy":
            rows = generator.integers(0, ROWS, ROWS)
        else:
            rows_of_classes = [np.flatnonzero(label == TARGETS) for label in range(4)]
            rows = np.concatenate([generator.choice(rows, len(rows)) for rows in rows_of_classes])
        bootstrap_scores.append(classification_scores(predictions[rows], TARGETS[rows])[metric])
    error = uncertainties(record, metric)["embeddings"].error
    # The standard deviation of 2,000 draws is known to about 2 %, and Wilson's interval adds less than 2 %.
    assert error == pytest.approx(np.std(bootstrap_scores), rel=0.1)


def test_the_p_value_of_several_runs_is_that_of_a_paired_t_test_of_their_means() -> None:
    shares = {"embeddings": 0.7, "kl": 0.75}
    runs = [
        {
            "results": {
                name: {"predictions": random_predictions(share, 10 * run + number)}
                for number, (name, share) in enumerate(shares.items())
            }
        }
        for run in range(3)
    ]
    record = result(shares) | {"runs": runs}
    means = {
        name: np.mean([np.array(run["results"][name]["predictions"]) == TARGETS for run in runs], axis=0)
        for name in shares
    }
    expected = ttest_rel(means["kl"], means["embeddings"]).pvalue
    assert uncertainties(record, "accuracy")["kl"].p_value == pytest.approx(expected)


def test_a_result_without_targets_has_no_uncertainties() -> None:
    record = result({"embeddings": 0.7, "kl": 0.9})
    assert uncertainties(record | {"test_targets": []}, "accuracy") == {}


def text_of(record: dict) -> str:
    """Return the summary of a result."""
    return " ".join(f"{finding.title}: {finding.text}" for finding in findings(cells(record)))


def test_a_gain_within_noise_is_marked_in_the_summary_and_in_tables() -> None:
    small_gain = result({"embeddings": 0.70, "embeddings+kl": 0.78}, TARGETS[:12])
    summary, table = text_of(small_gain), to_markdown(make_tables(cells(small_gain)))
    assert "within noise (p = " in summary
    assert ", 12 rows)" in summary
    assert "~)" in table.partition("| backbone")[2]
    assert "| cars (12) |" in table
    large_gain = result({"embeddings": 0.5, "embeddings+kl": 0.9})
    assert "within noise" not in text_of(large_gain)
    assert "~)" not in to_markdown(make_tables(cells(large_gain))).partition("| backbone")[2]
    assert "rows,standard_error" in to_csv(cells(large_gain)).splitlines()[0]


def test_the_title_of_a_table_states_its_pca() -> None:
    record = result({"embeddings": 0.5, "embeddings+kl": 0.9})
    for scores in record["results"].values():
        scores["pca"] = {"applied": False, "reason": "small", "dim": 64}
    assert "no PCA" in to_markdown(make_tables(cells(record)))
    record["results"]["embeddings+kl"]["pca"] = {"applied": True, "dim": 512}
    assert "PCA 512" in to_markdown(make_tables(cells(record)))


def page(*contents: dict) -> str:
    """Return the page of the report on some results."""
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


def test_the_page_says_that_clustering_uses_no_labels() -> None:
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


def test_the_task_of_the_users_own_evaluator_keeps_its_name() -> None:
    (cell,) = cells(content({"embeddings": 0.5}) | {"task": "nearest-mean-5shot"})
    assert cell.protocol.task == "nearest-mean"


def test_the_error_of_only_correct_predictions_is_half_of_wilsons_interval() -> None:
    record = result({"embeddings": 1.0}, np.zeros(6, dtype=int))
    record["results"]["embeddings"]["predictions"] = [0] * 6
    interval = binomtest(6, 6).proportion_ci(confidence_level=0.6826894921, method="wilson")
    error = uncertainties(record, "accuracy")["embeddings"].error
    assert error == pytest.approx((interval.high - interval.low) / 2)


def test_a_feature_with_the_score_of_the_embeddings_is_called_equal() -> None:
    record = result({"embeddings": 0.7})
    record["results"]["embeddings+kl"] = record["results"]["embeddings"]
    assert "equal to the embeddings" in text_of(record)
    assert "0.0 points" not in text_of(record)
