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

# The features are wide enough that LAPACK and the solvers divide the work. There are more rows than columns.
FEATURES, DIM, ROWS = ("embeddings", "kl"), 300, {"train": 640, "test": 120}
ROUNDING = 1e-5
"""Largest difference because of rounding. It is larger than the tolerance of the iterative solvers."""


def write_landmarks(root):
    """Write features and ground truth of four landmarks, and return the flags that select them.

    The positives of a query are the rows of its class: every fourth row, half of them easy and half of them hard.
    """
    make_folder(root, features=FEATURES, rows=ROWS, dim=DIM, dataset="oxford-landmarks")
    truth = [
        {"easy": list(range(query % 4, 400, 8)), "hard": list(range(query % 4 + 4, 400, 8)), "junk": [400 + query]}
        for query in range(ROWS["test"])
    ]
    (root / "truth.json").write_text(json.dumps(truth))
    return ["--dataset", "oxford-landmarks", "--ground-truth", str(root / "truth.json")]


def write_texts(root):
    """Write texts of three classes with random features, and return the flags that select them."""
    write_data(root / "data", {split: count // len(TEXTS) for split, count in ROWS.items()})
    layout = Layout(root)
    for split, count in ROWS.items():
        repeats = count // len(TEXTS)
        values = np.random.default_rng(len(split)).normal(size=(repeats * len(TEXTS), DIM))
        path = layout.embeddings("ag-news", "digits-vit", split)
        write_array(path, "embeddings", values, targets=[3, 2, 1] * repeats)
    return ["--dataset", "ag-news", "--backbone", "digits-vit", "--data-dir", str(root / "data"), "--k", "5"]


def write_digits(root):
    """Write features of the default dataset, which needs no flags."""
    make_folder(root, features=FEATURES, rows=ROWS, dim=DIM)
    return []


# Flags for a short test: one fit without a validation, of at most 20 epochs.
FLAGS_OF_FAST_FITS = ["--shots", "80", "--few-shot-validation", "none", "--max-epochs", "20"]
# Command -> its cases: function that writes the data, and flags.
CASES = {
    "knn": [(write_digits, []), (write_digits, ["--shots", "8", "--few-shot-seed", "1", "2"])],
    "linear": [(write_digits, [*FLAGS_OF_FAST_FITS, "--solver", solver]) for solver in ("cyanure", "lbfgs")],
    "retrieval": [(write_landmarks, [])],
    "cluster": [(write_digits, ["--restarts", "2"])],
    "analyse": [(write_digits, ["--analysis", "cka", "shots", "layers"])],
    "in-context": [(write_texts, [])],
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
    data_flags = prepare(tmp_path)
    results = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        arguments = [*data_flags, *flags, "--root", str(tmp_path), "--pca-dim", "40", "--device", "cpu"]
        assert COMMANDS[command].main(arguments) == 0
        files = sorted((tmp_path / "results").rglob("*.json"))
        results[threads] = {path.parts[-3]: json.loads(path.read_text())["results"] for path in files}
        (tmp_path / "results").rename(tmp_path / f"with-{threads}")
    assert results[1]
    assert_equal_up_to_rounding(results[1], results[2], command)


def assert_equal_up_to_rounding(value, other, name):
    """Compare two results. One in 100 predictions can differ, because two classes can have almost equal scores."""
    if isinstance(value, dict):
        assert list(value) == list(other), name
        for key in value:
            assert_equal_up_to_rounding(value[key], other[key], f"{name}, {key}")
    elif isinstance(value, list) and name.endswith("predictions"):
        assert np.mean(np.array(value) != np.array(other)) <= 0.01, name
    elif isinstance(value, list):
        for item, other_item in zip(value, other, strict=True):
            assert_equal_up_to_rounding(item, other_item, name)
    elif isinstance(value, float) and math.isfinite(value):
        assert other == pytest.approx(value, rel=ROUNDING, abs=0.01 if "accuracy" in name else ROUNDING), name
    else:
        assert value == other, name
