"""Compare kNN with scikit-learn and with the published results."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.evaluators.knn import knn_predictions, majority_vote
from fungi.evaluators.metrics import accuracy, mean_per_class_accuracy
from fungi.evaluators.weighted_knn import weighted_knn, weighted_predictions
from fungi.search.exact import nearest
from fungi.search.neighbours import in_memory
from fungi.store.reading import UnknownOriginWarning
from tests.evaluation.feature_folder import clustered_features, make_folder
from tests.evaluation.golden import file_flags, reference_result
from tests.runtime.additions import NoAtomicAdditions

BACKENDS = ("exact", "faiss", "scann", "sklearn")


def in_blocks(rows: torch.Tensor, size: int):
    """Return a function that returns the rows in blocks, each with its slice."""
    slices = [slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    return lambda: [(block, rows[block]) for block in slices]


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "shots"), [("expected-knn", None), pytest.param("expected-knn5", 5, marks=pytest.mark.slow)]
)
def test_predictions_equal_those_of_the_published_code(name, shots, backend, tmp_path):
    output = tmp_path / "result.json"
    flags = [*file_flags(), "--pca-dim", "32", "--k", "20", "--logs-output-path", str(output), "--backend", backend]
    with pytest.warns(UnknownOriginWarning, match=r"and 7 more: no provenance"):
        assert COMMANDS["knn"].main(flags + ([] if shots is None else ["--train-size", str(shots)])) == 0
    results, reference = json.loads(output.read_text())["results"], reference_result(name)["results"]
    assert list(results) == list(reference)
    for combination, scores in reference.items():
        assert results[combination]["predictions"] == scores["predictions"], combination
        for metric in ("accuracy", "mean-per-class-accuracy"):
            assert results[combination][metric] == pytest.approx(scores[metric], abs=1e-12)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", [37, 1000])
def test_predictions_equal_those_of_scikit_learn(backend, block):
    train, targets = clustered_features(700, 24, 6, seed=0, noise=3.0)
    queries, _ = clustered_features(200, 24, 6, seed=1, noise=3.0)
    train, queries = train.astype(np.float32), queries.astype(np.float32)
    oracle = KNeighborsClassifier(20, algorithm="brute").fit(train, targets).predict(queries)
    train_blocks = in_blocks(torch.from_numpy(train), block)
    predictions = knn_predictions(train_blocks, targets, torch.from_numpy(queries), k=20, backend=backend)
    np.testing.assert_array_equal(predictions, oracle)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", [13, 64, 500])
def test_every_backend_prefers_the_earlier_of_equally_distant_rows(backend, block):
    """Use points of a coarse grid: most distances occur several times."""
    generator = np.random.default_rng(0)
    train, queries = generator.integers(0, 3, (300, 4)), generator.integers(0, 3, (50, 4))
    distances = ((queries[:, None] - train[None]) ** 2).sum(-1)
    oracle = np.sort(np.argsort(distances, axis=1, kind="stable")[:, :7], axis=1)
    train_blocks = in_blocks(torch.from_numpy(train).float(), block)
    neighbours = nearest(train_blocks, torch.from_numpy(queries).float(), k=7, backend=backend).rows
    np.testing.assert_array_equal(np.sort(neighbours.numpy(), axis=1), oracle)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbours_with_equal_float32_distances_are_ranked_exactly(backend):
    """Use points far from the origin: their distances in float32 lose the digits that decide the ranking."""
    generator = np.random.default_rng(0)
    train = (1000 + generator.normal(size=(400, 16))).astype(np.float32)
    queries = (1000 + generator.normal(size=(30, 16))).astype(np.float32)
    distances = ((queries[:, None].astype(np.float64) - train[None]) ** 2).sum(-1)
    oracle = np.sort(np.argsort(distances, axis=1)[:, :5], axis=1)
    neighbours = nearest(in_memory(torch.from_numpy(train)), torch.from_numpy(queries), k=5, backend=backend).rows
    np.testing.assert_array_equal(np.sort(neighbours.numpy(), axis=1), oracle)


@pytest.mark.also_with_two_threads
def test_votes_are_added_without_atomic_additions():
    generator = torch.Generator().manual_seed(0)
    train, queries = torch.randn(60, 8, generator=generator), torch.randn(9, 8, generator=generator)
    targets = torch.arange(60) % 4
    with NoAtomicAdditions():
        weighted_knn(train, targets, queries, torch.arange(9) % 4, neighbours=[1, 7, 20])
        weighted_predictions(in_memory(train), targets.numpy(), queries, 20)
        majority_vote(targets.numpy().reshape(6, 10))


def test_a_tied_vote_gives_the_smallest_label():
    np.testing.assert_array_equal(majority_vote(np.array([[9, 2, 9, 2], [7, 7, 3, 1], [4, 300, 300, 4]])), [2, 7, 4])


def test_fewer_rows_than_neighbours_are_refused():
    rows = torch.zeros(5, 3)
    with pytest.raises(FungiError, match=r"k = 20 is too large: only 5 train rows can vote"):
        knn_predictions(in_memory(rows), np.zeros(5, dtype=np.int64), rows, k=20)
    with pytest.raises(FungiError, match=r"k = 2 is too large: only 1 train row can vote"):
        knn_predictions(in_memory(rows[:1]), np.zeros(1, dtype=np.int64), rows, k=2)


def test_mean_per_class_accuracy_is_the_mean_over_the_present_classes():
    targets, predictions = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 5])
    assert accuracy(predictions, targets) == 0.5
    assert mean_per_class_accuracy(predictions, targets) == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize("classes", [2, 3])
def test_only_datasets_of_two_classes_have_an_area_under_the_roc_curve(classes, tmp_path):
    layout = make_folder(tmp_path, features=("embeddings",), classes=classes)
    assert COMMANDS["knn"].main(["--root", str(tmp_path)]) == 0
    (path,) = (tmp_path / "results").rglob("digits-vit.json")
    scores = json.loads(path.read_text())["results"]["embeddings"]
    if classes > 2:
        assert "auc" not in scores
        return
    rows, targets = {}, {}
    for split in ("train", "test"):
        with h5py.File(layout.embeddings("digits", "digits-vit", split)) as file:
            rows[split], targets[split] = normalize(file["embeddings"][:]), file["targets"][:]
    oracle = KNeighborsClassifier(20).fit(rows["train"], targets["train"])
    shares_of_class_1 = oracle.predict_proba(rows["test"])[:, 1]
    assert scores["auc"] == pytest.approx(roc_auc_score(targets["test"], shares_of_class_1), abs=1e-12)


def read_knn_result(root: Path, task: str = "knn") -> dict:
    """Return the content of a result file. task: the name of its folder."""
    return json.loads((root / "results" / task / "digits" / "digits-vit.json").read_text())


@pytest.mark.parametrize(("k", "rows"), [(20, 20), (30, 20)])
def test_k_of_all_train_rows_is_refused_with_a_smaller_k_as_advice(k, rows, tmp_path, capsys):
    make_folder(tmp_path, rows={"train": rows, "test": 8})
    assert COMMANDS["knn"].main(["--root", str(tmp_path), "--k", str(k)]) == 2
    error = capsys.readouterr().err
    assert f"k = {k} is too large: all {rows} train rows would vote" in error
    assert "Use --k 5, or --choose" in error
    assert COMMANDS["knn"].main(["--root", str(tmp_path), "--k", "5"]) == 0


def test_fewer_shots_than_neighbours_give_a_recorded_warning(tmp_path, capsys):
    make_folder(tmp_path, features=("embeddings",))
    expected = "k = 20 neighbours vote, but class 0 has only 6 train rows: other classes get at least 14 votes."
    assert COMMANDS["knn"].main(["--root", str(tmp_path), "--shots", "6"]) == 0
    assert expected in capsys.readouterr().err
    assert any(expected in warning for warning in read_knn_result(tmp_path, "knn-6shot")["warnings"])
    assert COMMANDS["knn"].main(["--root", str(tmp_path), "--shots", "6", "--k", "6"]) == 0
    assert "other classes get" not in capsys.readouterr().err


def test_several_numbers_of_neighbours_give_the_results_of_single_runs(tmp_path, capsys):
    make_folder(tmp_path / "several", features=("embeddings", "kl"))
    make_folder(tmp_path / "single", features=("embeddings", "kl"))
    assert COMMANDS["knn"].main(["--root", str(tmp_path / "several"), "--k", "1", "5", "20"]) == 0
    assert "all train rows, k 5" in capsys.readouterr().out
    for k, task in ((1, "knn-k1"), (5, "knn-k5"), (20, "knn")):
        assert COMMANDS["knn"].main(["--root", str(tmp_path / "single"), "--k", str(k)]) == 0
        several, single = (read_knn_result(tmp_path / name, task) for name in ("several", "single"))
        assert several["results"] == single["results"]
        assert several["settings"]["k"] == k
    assert len(list((tmp_path / "several" / "results").rglob("*.json"))) == 3
    output = tmp_path / "mine.json"
    assert COMMANDS["knn"].main(["--root", str(tmp_path / "single"), "--k", "1", "5", "--output", str(output)]) == 0
    assert {path.name for path in tmp_path.glob("mine*")} == {"mine-k1.json", "mine-k5.json"}


@pytest.mark.parametrize(("vote", "k"), [("majority", 20), ("weighted", 21)])
def test_nothing_is_scored_if_one_of_several_numbers_of_neighbours_is_too_large(vote, k, tmp_path, capsys):
    make_folder(tmp_path, features=("embeddings",), rows={"train": 20, "test": 8})
    assert COMMANDS["knn"].main(["--root", str(tmp_path), "--vote", vote, "--k", "1", str(k), "5"]) == 2
    assert f"k = {k} is too large" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("backend", ["exact", "faiss", "scann"])  # scikit-learn cannot search by inner product
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_weighted_vote_is_the_sum_of_exponentials_of_cosines(backend, temperature):
    train, targets = clustered_features(300, 8, 5, seed=0, noise=3.0)
    queries, _ = clustered_features(90, 8, 5, seed=1, noise=3.0)
    oracle = []
    for cosines in normalize(queries) @ normalize(train).T:
        neighbours = np.argsort(-cosines)[:20]
        weights = np.exp(cosines[neighbours] / temperature)
        votes = [weights[targets[neighbours] == label].sum() for label in range(5)]
        oracle.append(int(np.argmax(votes)))
    train_blocks, float_queries = in_blocks(torch.from_numpy(train).float(), 37), torch.from_numpy(queries).float()
    predictions, shares = weighted_predictions(
        train_blocks, targets, float_queries, 20, temperature=temperature, backend=backend
    )
    np.testing.assert_array_equal(predictions, oracle)
    assert ((shares >= 0) & (shares <= 1)).all()


def test_the_vote_is_part_of_the_identity_of_a_result(tmp_path, capsys):
    make_folder(tmp_path, features=("embeddings",))
    assert COMMANDS["knn"].main(["--root", str(tmp_path)]) == 0
    assert COMMANDS["knn"].main(["--root", str(tmp_path), "--vote", "weighted", "--temperature", "0.1"]) == 0
    majority, weighted = read_knn_result(tmp_path), read_knn_result(tmp_path, "knn-weighted-T0.1")
    assert weighted["unusual"] == {"vote": "weighted", "temperature": 0.1}
    assert majority["unusual"] == {}
    assert COMMANDS["knn"].main(["--root", str(tmp_path), "--temperature", "0.1"]) == 2
    assert "--temperature applies only to the weighted vote: add --vote weighted." in capsys.readouterr().err


def test_earlier_names_of_exact_search_are_accepted(tmp_path):
    for flags in (["--backend", "torch"], ["--search", "exact"], ["--search", "torch"]):
        settings = COMMANDS["knn"].parse([*flags, "--neighbours", "7"])
        assert (settings.search, settings.k) == ("exact", 7)
        assert COMMANDS["segment"].parse([*flags, "--k", "7"]).search == "exact"
