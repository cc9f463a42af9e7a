"""What chance does to scores is said: standard errors, McNemar's test, and "within noise" in words."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from fungi.evaluators.metrics import classification_scores
from fungi.report.cells import Cell, ResultRecord, cells_of, distinct
from fungi.report.report_page import report_page
from fungi.report.summary import findings, headings
from fungi.report.tables import make_tables, to_csv, to_markdown
from fungi.report.uncertainty import uncertainties
from tests.evaluation.test_report import cells, content

GENERATOR = np.random.default_rng(0)
ROWS = 200
TARGETS = np.arange(ROWS) % 4


def predicted(share: float, seed: int) -> list[int]:
    """Predictions of which about a share is right."""
    generator = np.random.default_rng(seed)
    right = generator.random(ROWS) < share
    return np.where(right, TARGETS, (TARGETS + 1) % 4).tolist()


def result(shares: dict[str, float], targets: np.ndarray = TARGETS, **settings) -> dict:
    made = content({}, **settings) | {"test_targets": targets.tolist()}
    for number, (name, share) in enumerate(shares.items()):
        guesses = np.array(predicted(share, number))[: len(targets)]
        made["results"][name] = {**classification_scores(guesses, targets), "predictions": guesses.tolist()}
    return made


def test_mcnemars_exact_test_is_scipys_on_the_rows_that_one_of_both_gets_right() -> None:
    made = result({"embeddings": 0.7, "embeddings+kl": 0.8, "kl": 0.71})
    found = uncertainties(made, "accuracy")
    right = {name: np.array(scores["predictions"]) == TARGETS for name, scores in made["results"].items()}
    for name in ("embeddings+kl", "kl"):
        gained, lost = (
            int((right[name] & ~right["embeddings"]).sum()),
            int((~right[name] & right["embeddings"]).sum()),
        )
        assert found[name].p_value == pytest.approx(binomtest(gained, gained + lost).pvalue)
    assert found["embeddings"].p_value is None
    same = result({"embeddings": 0.7}) | {}
    same["results"]["kl"] = same["results"]["embeddings"]
    assert uncertainties(same, "accuracy")["kl"].p_value == 1.0


@pytest.mark.parametrize("metric", ["accuracy", "mean-per-class-accuracy"])
def test_standard_errors_are_those_of_the_bootstrap(metric: str) -> None:
    """Rows are drawn with replacement, within classes for the mean over classes."""
    made = result({"embeddings": 0.7})
    guesses = np.array(made["results"]["embeddings"]["predictions"])
    generator, drawn = np.random.default_rng(1), []
    for _ in range(2000):
        if metric == "accuracy":
            rows = generator.integers(0, ROWS, ROWS)
        else:
            rows = np.concatenate([generator.choice(np.flatnonzero(c == TARGETS), 50) for c in range(4)])
        drawn.append(classification_scores(guesses[rows], TARGETS[rows])[metric])
    assert uncertainties(made, metric)["embeddings"].error == pytest.approx(np.std(drawn), rel=0.1)


def test_several_runs_are_tested_over_their_rows() -> None:
    runs = [{"results": result({"embeddings": 0.7, "kl": 0.9})["results"], "warnings": []} for _ in range(3)]
    made = result({"embeddings": 0.7, "kl": 0.9}) | {"runs": runs}
    assert uncertainties(made, "accuracy")["kl"].p_value < 0.01
    assert uncertainties(made | {"test_targets": []}, "accuracy") == {}


def text_of(made: dict) -> str:
    return " ".join(f"{finding.title}: {finding.text}" for finding in findings(cells(made)))


def test_a_gain_within_noise_is_called_so_in_words_and_marked_in_tables() -> None:
    few = result({"embeddings": 0.70, "embeddings+kl": 0.78}, TARGETS[:12])
    told, table = text_of(few), to_markdown(make_tables(cells(few)))
    assert "within noise (p = " in told
    assert ", 12 rows)" in told
    assert "~)" in table.partition("| backbone")[2]
    assert "| cars (12) |" in table
    many = result({"embeddings": 0.5, "embeddings+kl": 0.9})
    assert "within noise" not in text_of(many)
    assert "~)" not in to_markdown(make_tables(cells(many))).partition("| backbone")[2]
    assert "rows,standard_error" in to_csv(cells(many)).splitlines()[0]


def test_components_are_not_claimed_where_no_pca_was_applied() -> None:
    made = result({"embeddings": 0.5, "embeddings+kl": 0.9})
    for scores in made["results"].values():
        scores["pca"] = {"applied": False, "reason": "small", "dim": 64}
    assert "no PCA" in to_markdown(make_tables(cells(made)))
    made["results"]["embeddings+kl"]["pca"] = {"applied": True, "dim": 512}
    assert "PCA 512" in to_markdown(make_tables(cells(made)))


def page(*contents: dict) -> str:
    records = [ResultRecord(Path("x.json"), made) for made in contents]
    shown = distinct([cell for record in records for cell in cells_of(record)])
    return report_page(records, shown, make_tables(shown), [], [])


def test_two_results_never_stand_under_one_heading() -> None:
    contents = [content({"embeddings": 0.3, "kl": 0.4}, **change) for change in ({}, {"k": 5}, {"profile": "clean"})]
    titles = headings(cell.protocol for made in contents for cell in cells(made))
    assert len(set(titles.values())) == len(titles) == 3
    text = page(*contents)
    headed = [part.partition("</h3>")[0] for part in text.split("<h3>")[1:]]
    told = [part.partition("</dt>")[0] for part in text.split("<dt>")[1:]]
    assert len(set(headed)) == len(headed) == 3
    assert len(set(told)) == len(told) == 3


def test_clusters_are_not_said_to_be_fitted_on_train_rows() -> None:
    made = content({"embeddings": 0.3}) | {"task": "clustering"}
    assert "all scored rows, fitted without labels" in page(made)
    assert "all train rows" not in page(made)


@pytest.mark.parametrize(
    ("scores", "bold"),
    [
        ({"embeddings": 0.3, "kl": 0.5, "embeddings+kl": 0.5}, ["50.0"]),
        ({"embeddings": 0.5, "kl": 0.5, "embeddings+kl": 0.5}, []),
    ],
)
def test_one_score_at_most_is_bold(scores: dict, bold: list) -> None:
    text = page(content(scores))
    assert [part.partition("<")[0] for part in text.split("class='best'>")[1:]] == bold


def test_a_mean_over_datasets_claims_no_rows() -> None:
    made = result({"embeddings": 0.5})
    (cell,) = cells(made)
    assert isinstance(cell, Cell)
    assert (cell.rows, cell.within_noise) == (ROWS, False)


def test_the_task_of_an_evaluator_of_ones_own_keeps_its_name() -> None:
    (cell,) = cells(content({"embeddings": 0.5}) | {"task": "nearest-mean-5shot"})
    assert cell.protocol.task == "nearest-mean"
