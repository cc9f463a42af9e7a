"""Compare retrieval with the published results and a hand-computed example."""

import json

import numpy as np
import pytest
import torch

from fungi.commands import COMMANDS
from fungi.errors import FungiError, RefusedJoinError
from fungi.evaluators.retrieval import (
    PROTOCOLS,
    average_precision,
    evaluate_protocol,
    positions_of,
    precision_at,
)
from fungi.scoring import retrieval_eval
from fungi.scoring.retrieval_eval import RetrievalSettings
from fungi.search.exact import all_ranked
from fungi.search.neighbours import in_memory
from fungi.store.reading import UnknownOriginWarning
from tests.evaluation.feature_folder import write_array
from tests.evaluation.golden import RETRIEVAL

REFERENCE = json.loads((RETRIEVAL / "landmarks.json").read_text())
ARRAYS = np.load(RETRIEVAL / "landmarks.npz")


def ranking_of(database: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the database rows for each query, the most similar first."""
    return all_ranked(in_memory(torch.from_numpy(database)), torch.from_numpy(queries))


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scores_equal_those_of_the_benchmark_code(protocol):
    ranking = ranking_of(ARRAYS["database"], ARRAYS["queries"])
    scores, expected = evaluate_protocol(ranking, REFERENCE["ground_truth"], protocol), REFERENCE["expected"][protocol]
    assert scores.mean_average_precision == pytest.approx(expected["mAP"], abs=1e-6)
    precisions = {int(k): precision for k, precision in expected["mP@k"].items()}
    assert scores.precision_at == pytest.approx(precisions, abs=1e-6)
    for score, reference in zip(scores.average_precision, expected["AP"], strict=True):
        assert score == (None if reference is None else pytest.approx(reference, abs=1e-6))


def test_average_precision_equals_a_hand_computed_example():
    # Positives at positions 0 and 3: the trapezoid rule averages the precision before and at each positive.
    assert average_precision(np.array([0, 3])) == pytest.approx(((1 + 1) / 2 + (1 / 3 + 2 / 4) / 2) / 2)


def test_ignored_rows_are_absent_from_the_ranking():
    order = np.array([4, 7, 1, 9, 2])
    np.testing.assert_array_equal(positions_of(order, np.array([9, 1]), np.array([7, 4])), [0, 1])


def test_the_cutoff_of_precision_is_at_most_the_rank_of_the_last_positive():
    assert precision_at(np.array([0, 2]), cutoff=10) == pytest.approx(2 / 3)
    assert precision_at(np.array([0, 2]), cutoff=2) == pytest.approx(1 / 2)


@pytest.mark.also_with_two_threads
def test_equal_scores_rank_in_row_order():
    database = np.array([[0.5], [0.9], [0.5], [0.9]])
    np.testing.assert_array_equal(ranking_of(database, np.array([[1.0]])), [[1, 3, 0, 2]])


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the reference features as feature files."""
    for name, split in (("database", "train"), ("queries", "query")):
        path = tmp_path / "embeddings" / "oxford-landmarks" / "dino_vitb16" / f"{split}.h5"
        write_array(path, "embeddings", ARRAYS[name], targets=np.arange(len(ARRAYS[name])))
    return tmp_path


def settings_for(root, **options) -> RetrievalSettings:
    """Return settings without PCA: features have fewer than 9999 entries."""
    defaults = {"ground_truth": RETRIEVAL / "landmarks.json", "pca_dim": 9999, "backbone": "dino_vitb16"}
    return RetrievalSettings(root=(root,), **defaults | options)


@pytest.mark.also_with_two_threads
def test_the_command_gives_the_reference_scores_and_records_its_protocol(folder, capsys):
    flags = ["--root", str(folder), "--backbone", "dino_vitb16", "--pca-dim", "9999"]
    with pytest.warns(UnknownOriginWarning):
        assert COMMANDS["retrieval"].main([*flags, "--ground-truth", str(RETRIEVAL / "landmarks.json")]) == 0
    assert "mAP-M" in capsys.readouterr().out
    (path,) = folder.glob("results/retrieval-on-query-pca9999-*/oxford-landmarks/dino_vitb16.json")
    scores = json.loads(path.read_text())["results"]["embeddings"]
    for protocol, letter in (("easy", "E"), ("medium", "M"), ("hard", "H")):
        assert scores[f"mAP-{letter}"] == pytest.approx(REFERENCE["expected"][protocol]["mAP"], abs=1e-6)
        assert scores[f"mP@5-{letter}"] == pytest.approx(REFERENCE["expected"][protocol]["mP@k"]["5"], abs=1e-6)
    assert scores["protocol"] == {"queries": "unknown", "input": "unknown", "scales": [1.0], "pca_fitted_on": None}


@pytest.mark.filterwarnings("ignore::fungi.store.reading.UnknownOriginWarning")
def test_pca_is_fitted_on_the_database_as_the_result_records(folder):
    scores = retrieval_eval.run(settings_for(folder, pca_dim=8, output=folder / "r.json"))["results"]["embeddings"]
    assert scores["protocol"]["pca_fitted_on"] == "database"
    mean = ARRAYS["database"].mean(axis=0)
    _, _, directions = np.linalg.svd(ARRAYS["database"] - mean, full_matrices=False)
    database, queries = ((ARRAYS[name] - mean) @ directions[:8].T for name in ("database", "queries"))
    oracle = evaluate_protocol(ranking_of(database, queries), REFERENCE["ground_truth"], "medium")
    assert scores["mAP-M"] == pytest.approx(oracle.mean_average_precision, abs=1e-6)


@pytest.mark.filterwarnings("ignore::fungi.store.reading.UnknownOriginWarning")
def test_the_ground_truth_of_other_images_is_refused(folder):
    for truth, message in (
        (REFERENCE["ground_truth"][:5], r"row count differs: .* has 20 queries, but the ground truth has 5"),
        (
            [{"easy": [400], "hard": [], "junk": []}] * 20,
            r"names row 400 of the database, but the database has only 400 rows",
        ),
    ):
        path = folder / "truth.json"
        path.write_text(json.dumps(truth))
        with pytest.raises(RefusedJoinError, match=message):
            retrieval_eval.run(settings_for(folder, ground_truth=path))


@pytest.mark.filterwarnings("ignore::fungi.store.reading.UnknownOriginWarning")
@pytest.mark.parametrize(("content", "message"), [("{", "can't be read as JSON"), ("[1]", "is not a list of queries")])
def test_an_invalid_ground_truth_file_is_refused(folder, content, message):
    path = folder / "truth.json"
    path.write_text(content)
    with pytest.raises(FungiError, match=message):
        retrieval_eval.run(settings_for(folder, ground_truth=path))


def test_a_ground_truth_without_any_positive_is_refused():
    with pytest.raises(FungiError, match=r"no query has a positive under the hard protocol"):
        evaluate_protocol(np.array([[0, 1]]), [{"easy": [0], "hard": [], "junk": []}], "hard")
