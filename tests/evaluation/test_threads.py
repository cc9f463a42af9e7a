"""The scores of all commands do not depend on the number of threads."""

import json
import math

import numpy as np
import pytest
import torch

from fungi.commands import COMMANDS
from fungi.store.layout import Layout
from tests.evaluation.feature_folder import make_folder, write_array
from tests.text.test_in_context import TEXTS, write_data

# Wide enough that LAPACK and the solvers divide the work, with more rows than columns and fewer components than both.
FEATURES, DIM, ROWS = ("embeddings", "kl"), 300, {"train": 640, "test": 120}
ROUNDING = 1e-5
"""Rounding of float32 features and float64 sums. The differences in iterative solvers are below their tolerance."""


def landmarks(root):
    """Write database and queries of four landmarks. The positives of a query are the rows of its class."""
    make_folder(root, features=FEATURES, rows=ROWS, dim=DIM, dataset="oxford-landmarks")
    truth = [
        {"easy": list(range(query % 4, 400, 8)), "hard": list(range(query % 4 + 4, 400, 8)), "junk": [400 + query]}
        for query in range(ROWS["test"])
    ]
    (root / "truth.json").write_text(json.dumps(truth))
    return ["--dataset", "oxford-landmarks", "--ground-truth", str(root / "truth.json")]


def texts(root):
    """Write texts of three classes with random features."""
    write_data(root / "data", {split: count // len(TEXTS) for split, count in ROWS.items()})
    layout = Layout(root)
    for split, count in ROWS.items():
        count -= count % len(TEXTS)
        values = np.random.default_rng(len(split)).normal(size=(count, DIM))
        path = layout.embeddings("ag-news", "digits-vit", split)
        write_array(path, "embeddings", values, targets=[3, 2, 1] * (count // 3))
    return ["--dataset", "ag-news", "--backbone", "digits-vit", "--data-dir", str(root / "data"), "--k", "5"]


def digits(root):
    make_folder(root, features=FEATURES, rows=ROWS, dim=DIM)
    return []


FEW_FITS = ["--shots", "80", "--few-shot-validation", "none", "--max-epochs", "20"]
CASES = {
    "knn": [(digits, []), (digits, ["--shots", "8", "--few-shot-seed", "1", "2"])],
    "linear": [(digits, [*FEW_FITS, "--solver", solver]) for solver in ("cyanure", "lbfgs")],
    "retrieval": [(landmarks, [])],
    "cluster": [(digits, ["--restarts", "2"])],
    "analyse": [(digits, ["--analysis", "cka", "shots", "layers"])],
    "in-context": [(texts, [])],
}


def test_every_command_that_scores_features_has_a_case():
    scoring = {name for name, row in COMMANDS.items() if row.module.split(".")[1] in ("scoring", "in_context")}
    assert scoring == set(CASES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fungi.store.reading.UnknownOriginWarning")
@pytest.mark.parametrize(
    ("command", "prepare", "flags"), [(name, *case) for name, cases in CASES.items() for case in cases]
)
def test_results_do_not_depend_on_the_number_of_threads(command, prepare, flags, tmp_path, two_threads):
    prepared = prepare(tmp_path)
    results = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        arguments = [*prepared, *flags, "--root", str(tmp_path), "--pca-dim", "40", "--device", "cpu"]
        assert COMMANDS[command].main(arguments) == 0
        files = sorted((tmp_path / "results").rglob("*.json"))
        results[threads] = {path.parts[-3]: json.loads(path.read_text())["results"] for path in files}
        (tmp_path / "results").rename(tmp_path / f"with-{threads}")
    assert results[1]
    assert_alike(results[1], results[2], command)


def assert_alike(first, second, place):
    """Compare up to rounding. One in 100 predictions can differ, because two classes can be equally near."""
    if isinstance(first, dict):
        assert list(first) == list(second), place
        for name in first:
            assert_alike(first[name], second[name], f"{place}, {name}")
    elif isinstance(first, list) and place.endswith("predictions"):
        assert np.mean(np.array(first) != np.array(second)) <= 0.01, place
    elif isinstance(first, list):
        for first_item, second_item in zip(first, second, strict=True):
            assert_alike(first_item, second_item, place)
    elif isinstance(first, float) and math.isfinite(first):
        assert second == pytest.approx(first, rel=ROUNDING, abs=0.01 if "accuracy" in place else ROUNDING), place
    else:
        assert first == second, place
