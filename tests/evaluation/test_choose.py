"""`--choose` makes the same choice on the train rows as a simple search, and does not use test labels."""

import json
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fungi.commands import COMMANDS
from fungi.evaluators.knn import other_labels, votes_by_k
from fungi.report import write_report
from fungi.report.write_report import ReportSettings
from fungi.results.choice_table import choice_table
from fungi.scoring import knn_concat
from fungi.scoring.knn_concat import KnnSettings
from tests.evaluation.feature_folder import make_folder

NAMES = ("embeddings", "kl", "dino")
MAX_NEIGHBOURS = 6


def leave_one_out_accuracy(rows: np.ndarray, targets: np.ndarray, k: int) -> float:
    """Classify each row by the vote of its k nearest other rows, and return the accuracy.

    A tied vote gives the smallest label.
    """
    correct = 0
    for index, row in enumerate(rows):
        others = np.delete(np.arange(len(rows)), index)
        distances = ((rows[others] - row) ** 2).sum(axis=1)
        neighbours = others[np.argsort(distances, kind="stable")[:k]]
        correct += int(np.argmax(np.bincount(targets[neighbours])) == targets[index])
    return correct / len(rows)


def test_leave_one_out_accuracies_equal_those_of_a_simple_loop() -> None:
    random = np.random.default_rng(0)
    rows, targets = random.normal(size=(40, 3)), random.integers(0, 3, 40)
    labels = other_labels(torch.from_numpy(rows).float(), targets, MAX_NEIGHBOURS)
    for k, votes in enumerate(votes_by_k(labels), start=1):
        assert float(np.mean(votes == targets)) == leave_one_out_accuracy(rows, targets, k)


def test_equal_rows_never_vote_for_themselves() -> None:
    neighbour_labels = other_labels(torch.ones(5, 2), np.arange(5), k=3)
    assert neighbour_labels.shape == (5, 3)
    assert all(own_label not in labels for own_label, labels in enumerate(neighbour_labels.tolist()))


def normalised_features(layout, split: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return normalised features and labels, read without the code under test."""
    features = {}
    for name in NAMES:
        with h5py.File(layout.features(name, "digits", "digits-vit", split)) as file:
            values = file["embeddings" if name == "embeddings" else "attn_proj"][:]
            features[name] = values / np.linalg.norm(values, axis=1, keepdims=True)
            if name == "embeddings":
                targets = file["targets"][:].astype(int)
    return features, targets


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root with features of 60 train rows and 40 test rows."""
    make_folder(tmp_path / "one", features=NAMES, dim=20, rows={"train": 60, "test": 40})
    return tmp_path / "one"


def run_choose(root: Path, **options) -> dict:
    """Run `fungi knn --choose`, and return the content of its result file."""
    return knn_concat.run(KnnSettings(root=(root,), choose=True, k=MAX_NEIGHBOURS, pca_dim=18, **options))


@pytest.mark.slow
def test_the_choice_equals_that_of_a_simple_search(root: Path, tmp_path: Path) -> None:
    """Search all combinations, 16 and 18 components and 1 to 6 neighbours, with the PCA of scikit-learn."""
    from sklearn.decomposition import PCA

    same_features = make_folder(tmp_path / "copy", features=NAMES, dim=20, rows={"train": 60, "test": 40})
    train, targets = normalised_features(same_features, "train")
    leave_one_out = {}
    for size in (1, 2, 3):
        for names in combinations(NAMES, size):
            joined = np.concatenate([train[name] for name in names], axis=1)
            rows = PCA(18, svd_solver="full").fit_transform(joined)
            for dim in (16, 18):
                for k in range(1, MAX_NEIGHBOURS + 1):
                    leave_one_out["+".join(names), dim, k] = leave_one_out_accuracy(rows[:, :dim], targets, k)
    results = run_choose(root)["results"]
    best = results["chosen"]["chosen"]
    assert best["judged"] == max(leave_one_out.values())
    assert leave_one_out[best["combination"], best["dim"], best["k"]] == best["judged"]
    assert results["chosen"]["judged"] >= results["embeddings"]["judged"]
    assert results["embeddings"]["judged"] == max(
        score for (name, _, _), score in leave_one_out.items() if name == "embeddings"
    )
    assert results["hindsight"]["accuracy"] >= max(results[name]["accuracy"] for name in results)


@pytest.mark.slow
def test_the_choice_does_not_depend_on_test_labels(root: Path) -> None:
    before = run_choose(root)["results"]
    (path,) = root.glob("embeddings/digits/digits-vit/test.h5")
    with h5py.File(path, "r+") as file:
        file["targets"][...] = np.roll(file["targets"][:], 1)
    (result,) = root.glob("results/*/digits/*.json")
    result.unlink()
    after = run_choose(root)["results"]
    for name in ("embeddings", "embeddings+kl+dino", "chosen"):
        assert after[name]["chosen"] == before[name]["chosen"]
        assert after[name]["predictions"] == before[name]["predictions"]
    assert after["hindsight"]["accuracy"] < before["hindsight"]["accuracy"]


@pytest.mark.slow
def test_few_shots_never_try_more_neighbours_than_other_rows(root: Path) -> None:
    content = run_choose(root, shots=1)
    other_rows = 3  # four classes with one row each
    assert all(entry["chosen"]["k"] <= other_rows for entry in content["results"].values())


@pytest.mark.slow
def test_the_table_shows_the_choice_of_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roots = [tmp_path / f"seed-{seed}" for seed in (1, 2)]
    for seed, root in enumerate(roots):
        make_folder(root, features=NAMES, dim=20, seed=seed)
    flags = ["--root", *map(str, roots), "--choose", "--k", "4", "--pca-dim", "18"]
    assert COMMANDS["knn"].main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "features"
    assert [line.split()[0] for line in lines[1:5]] == ["embeddings", "embeddings+kl+dino", "chosen", "hindsight"]
    assert "±" in lines[3]
    (result,) = (tmp_path / "results").rglob("*.json")
    content = json.loads(result.read_text())
    assert any(part.endswith("-chosen") for part in result.parts), result
    assert len(content["runs"]) == 2
    assert choice_table(content, "accuracy").splitlines()[0] == lines[0]


@pytest.mark.slow
def test_the_report_separates_choices_from_results_of_fixed_settings(root: Path, tmp_path: Path) -> None:
    run_choose(root)
    knn_concat.run(KnnSettings(root=(root,), k=MAX_NEIGHBOURS, pca_dim=18))
    write_report.run(ReportSettings(results=(root,), output=tmp_path / "report", formats=("markdown",)))
    text = (tmp_path / "report" / "report.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## knn, full")]
    are_choices = ["features, PCA and k up to these chosen on train rows" in heading for heading in headings]
    assert sorted(are_choices) == [False, True]
    section = text[text.index("# Choices on the train rows") :]
    assert "score on train" in section
    assert "hindsight" in section


def test_choose_with_combinations_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS["knn"].main(["--root", str(root), "--choose", "--combinations", "nested"]) == 2
    assert "--choose tries all combinations: remove --combinations." in capsys.readouterr().err
