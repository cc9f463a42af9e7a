"""Results are saved after each combination, a second run resumes, and several runs are averaged."""

import json
import multiprocessing
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.errors import FungiError
from fungi.report.cells import read_results
from fungi.results.result_file import ResultFile, Run
from fungi.results.text import gain_table
from fungi.scoring import knn_concat
from fungi.scoring.knn_concat import KnnSettings
from fungi.scoring.scorers import KnnScorer
from fungi.store.code_version import CodeVersion
from fungi.store.reading import UnknownOriginWarning
from tests.evaluation import feature_folder
from tests.evaluation.feature_folder import make_folder


def settings_for(*roots, **options) -> KnnSettings:
    """Return settings of kNN for some root folders."""
    return KnnSettings(root=tuple(roots), **{"pca_dim": 4, "k": 5, **options})


def result_path(root, task="knn-pca4-k5"):
    """Return the path of the result of `settings_for`. task: the name of its folder."""
    return root / "results" / task / "digits" / "digits-vit.json"


def test_a_result_holds_settings_provenance_and_all_combinations(tmp_path):
    make_folder(tmp_path)
    knn_concat.run(settings_for(tmp_path))
    result = json.loads(result_path(tmp_path).read_text())
    assert len(result["results"]) == 7
    assert result["settings"]["k"] == 5
    origin = result["provenance"]["features"][0]["train"]["kl"]
    assert origin["provenance"]["weights_hash"] == "weights-a"
    assert origin["layer"]["projection_hash"] == "projection-a"
    scores = result["results"]["embeddings+kl"]
    assert scores["accuracy"] == np.mean(np.array(scores["predictions"]) == result["test_targets"])
    assert scores["pca"]["applied"]


@pytest.mark.slow
def test_an_interrupted_evaluation_resumes(tmp_path, monkeypatch):
    make_folder(tmp_path)
    complete = knn_concat.run(settings_for(tmp_path, output=tmp_path / "complete.json"))
    scored_combinations, score = [], KnnScorer.score

    def score_or_interrupt(self, combination):
        scored_combinations.append(combination)
        if len(scored_combinations) == 4:
            raise KeyboardInterrupt
        return score(self, combination)

    monkeypatch.setattr(KnnScorer, "score", score_or_interrupt)
    with pytest.raises(KeyboardInterrupt):
        knn_concat.run(settings_for(tmp_path))
    assert len(json.loads(result_path(tmp_path).read_text())["results"]) == 3
    resumed = knn_concat.run(settings_for(tmp_path))
    assert len(scored_combinations) == 4 + 4  # three of seven were saved, so the second run scores four
    assert resumed["results"] == complete["results"]


def test_a_finished_evaluation_does_not_read_features_again(tmp_path, monkeypatch):
    make_folder(tmp_path)
    first = knn_concat.run(settings_for(tmp_path))
    monkeypatch.setattr(KnnScorer, "__init__", lambda *_, **__: pytest.fail("scored again"))
    assert knn_concat.run(settings_for(tmp_path)) == first


@pytest.mark.slow
def test_results_of_earlier_input_files_are_kept_separately(tmp_path):
    make_folder(tmp_path)
    first = knn_concat.run(settings_for(tmp_path))
    make_folder(tmp_path, seed=3, dim=10)
    second = knn_concat.run(settings_for(tmp_path))
    assert second["results"]["kl"]["predictions"] != first["results"]["kl"]["predictions"]
    make_folder(tmp_path, seed=4, dim=9)
    knn_concat.run(settings_for(tmp_path))
    for number, earlier in ((1, first), (2, second)):
        previous = json.loads(result_path(tmp_path).with_suffix(f".previous-{number}.json").read_text())
        assert previous["results"] == earlier["results"]
    assert [record.path for record in read_results([tmp_path])] == [result_path(tmp_path)]


@pytest.mark.slow
def test_several_roots_give_mean_and_population_standard_deviation(tmp_path):
    roots = [tmp_path / f"seed-{seed}" for seed in (1, 2, 3)]
    for seed, root in enumerate(roots):
        make_folder(root, seed=seed)
    single = [knn_concat.run(settings_for(root)) for root in roots]
    joint = knn_concat.run(settings_for(*roots))
    content = json.loads(result_path(tmp_path).read_text())
    assert {name: value for name, value in content.items() if name != "checksum"} == joint
    for name, scores in joint["results"].items():
        accuracies = [result["results"][name]["accuracy"] for result in single]
        assert scores["accuracy"] == pytest.approx(np.mean(accuracies))
        assert scores["accuracy-std"] == pytest.approx(np.std(accuracies))
    assert [run["root"] for run in joint["runs"]] == list(map(str, roots))


@pytest.mark.slow
def test_every_few_shot_draw_is_a_run(tmp_path):
    make_folder(tmp_path)
    content = knn_concat.run(settings_for(tmp_path, shots=3, few_shot_seed=(1, 2)))
    assert [run["few_shot_seed"] for run in content["runs"]] == [1, 2]
    (folder,) = (tmp_path / "results").iterdir()
    assert set(folder.name.split("-")) == {"knn", "3shot", "pca4", "k5", "draws1+2"}


def test_means_over_different_rows_are_refused(tmp_path):
    make_folder(tmp_path / "a", classes=4)
    make_folder(tmp_path / "b", classes=3, seed=1)
    with pytest.raises(FungiError, match=r"differ from those of the other --root folders"):
        knn_concat.run(settings_for(tmp_path / "a", tmp_path / "b"))


def test_labels_without_train_rows_are_recorded(tmp_path):
    layout = make_folder(tmp_path, features=("embeddings",), classes=3)
    other = make_folder(tmp_path / "other", features=("embeddings",), classes=4)
    content = knn_concat.run(
        KnnSettings(
            train_embeddings_datasets=(layout.embeddings("digits", "digits-vit", "train"),),
            test_embeddings_datasets=(other.embeddings("digits", "digits-vit", "test"),),
            output=tmp_path / "result.json",
        )
    )
    assert content["warnings"] == ["1 label without a train row (3): 15 scored rows can't be predicted correctly."]


def test_a_damaged_result_file_is_put_aside_and_scored_again(tmp_path):
    make_folder(tmp_path)
    knn_concat.run(settings_for(tmp_path))
    result_path(tmp_path).write_text("{")
    assert len(knn_concat.run(settings_for(tmp_path))["results"]) == 7


def test_the_gain_table_shows_gains_standard_deviations_and_missing_scores():
    full_data = {
        "results": {"kl": {"accuracy": 0.5}, "embeddings": {"accuracy": 0.68}, "embeddings+kl": {"accuracy": 0.765}}
    }
    five_shot = {
        "results": {"embeddings": {"accuracy": 0.4}, "embeddings+kl": {"accuracy": 0.41, "accuracy-std": 0.0123}}
    }
    lines = gain_table({"full": full_data, "5-shot": five_shot}).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["embeddings", "kl", "embeddings+kl"]
    assert lines[3].split() == ["kl", "50.0", "(-18.0)", "-"]
    assert lines[4].split() == ["embeddings+kl", "76.5", "(+8.5)", "41.0", "±", "1.2", "(+1.0)"]


def test_a_result_is_complete_only_after_the_last_combination(tmp_path, monkeypatch):
    make_folder(tmp_path)
    score, complete_flags = KnnScorer.score, []

    def read_file_and_score(self, combination):
        if result_path(tmp_path).exists():
            complete_flags.append(json.loads(result_path(tmp_path).read_text())["complete"])
        return score(self, combination)

    monkeypatch.setattr(KnnScorer, "score", read_file_and_score)
    knn_concat.run(settings_for(tmp_path))
    assert set(complete_flags) == {False}
    assert json.loads(result_path(tmp_path).read_text())["complete"] is True


def test_a_standard_deviation_over_copies_of_the_same_extraction_is_refused(tmp_path):
    for name in "ab":
        make_folder(tmp_path / name)
    with pytest.raises(FungiError, match=r"contain the same extraction, with the same seed and projection"):
        knn_concat.run(settings_for(tmp_path / "a", tmp_path / "b"))


def test_a_mean_over_different_weights_is_refused(tmp_path, monkeypatch):
    for seed, (name, weights) in enumerate((("a", "weights-a"), ("b", "weights-b"))):
        provenance = replace(feature_folder.PROVENANCE, weights_hash=weights, weights_source="published")
        monkeypatch.setattr(feature_folder, "PROVENANCE", provenance)
        make_folder(tmp_path / name, seed=seed)
    with pytest.raises(FungiError, match=r"backbone weights differs: 'weights-a' in .*, 'weights-b' in"):
        knn_concat.run(settings_for(tmp_path / "a", tmp_path / "b"))


def test_an_error_lists_the_features_of_roots_that_differ(tmp_path):
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "b", seed=1, features=("embeddings", "kl"))
    with pytest.raises(FungiError, match=r"features differ: embeddings, kl, dino in .*, embeddings, kl in"):
        knn_concat.run(settings_for(tmp_path / "a", tmp_path / "b"))


@pytest.mark.parametrize("name", ["folder.json", "notes.txt"])
def test_files_that_are_not_results_are_never_moved(name, tmp_path):
    make_folder(tmp_path)
    path = tmp_path / name
    path.mkdir() if name.startswith("folder") else path.write_text("mine")
    with pytest.raises(FungiError, match=r"Choose another --output"):
        knn_concat.run(replace(settings_for(tmp_path), output=path))
    assert path.exists()


@pytest.mark.slow
def test_results_of_relative_and_absolute_roots_go_to_their_common_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "b", seed=1)
    knn_concat.run(settings_for(Path("a"), tmp_path / "b"))
    assert result_path(tmp_path).exists()
    with pytest.raises(FungiError, match=r"no common folder"):
        settings_for(Path("/scratch/a"), Path("/home/b")).result_path()


VERSION = CodeVersion("aaaaaaaaaaaa", "first", {"torch": "2.12"})


def _open_result(path, version=VERSION, **options) -> ResultFile:
    """Return a result file with a single run. options: settings that differ from the usual settings."""
    run = Run(label={}, features={"train": {"kl": {"file": str(path), "provenance": {"seed": 1}}}})
    return ResultFile(path, "knn", {"k": 5, **options}, [run], {}, version)


def test_two_simultaneous_evaluations_with_the_same_file_lose_nothing(tmp_path):
    path = tmp_path / "result.json"
    first, second = _open_result(path), _open_result(path)
    for number, result in enumerate((first, second, first, second)):
        result.add(result.runs[0], f"combination-{number}", {"accuracy": number / 4})
    first.finish()
    assert sorted(json.loads(path.read_text())["results"]) == [f"combination-{number}" for number in range(4)]
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_results_of_two_code_versions_never_share_a_file(tmp_path):
    path = tmp_path / "result.json"
    first = _open_result(path)
    first.add(first.runs[0], "kl", {"accuracy": 0.5})
    for equal_version in (replace(VERSION, commit="other"), replace(VERSION)):
        assert list(_open_result(path, equal_version).runs[0].results) == ["kl"]
    for other_version in (replace(VERSION, versions={"torch": "9.9"}), replace(VERSION, code="other")):
        second = _open_result(path, other_version)
        assert second.runs[0].results == {}
        second.add(second.runs[0], "kl", {"accuracy": 0.75})
    assert len(list(tmp_path.glob("result.previous-*.json"))) == 2


def test_two_simultaneous_evaluations_with_different_settings_lose_nothing(tmp_path):
    path = tmp_path / "result.json"
    first, second = _open_result(path), _open_result(path, k=7)
    for result in (first, second):
        result.add(result.runs[0], "kl", {"accuracy": 0.5})
    assert json.loads(path.read_text())["settings"] == {"k": 7}
    assert json.loads(path.with_suffix(".previous-1.json").read_text())["settings"] == {"k": 5}


def test_facts_keep_their_order_when_the_file_is_written_again(tmp_path):
    """Otherwise, equal runs give files with different bytes."""
    path, names = tmp_path / "result.json", [f"fact-{number}" for number in range(10)]
    result = _open_result(path)
    result.facts |= dict.fromkeys(names, 1)
    result.add(result.runs[0], "kl", {"accuracy": 0.5})
    for combination in ("dino", "kl+dino"):
        again = _open_result(path)
        again.add(again.runs[0], combination, {"accuracy": 0.5})
    assert [name for name in json.loads(path.read_text()) if name in names] == names


def test_processes_that_write_the_same_file_simultaneously_lose_nothing(tmp_path):
    path = tmp_path / "result.json"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_save_ten_results, args=(path, name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(json.loads(path.read_text())["results"]) == 30
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def _save_ten_results(path: Path, name: str) -> None:
    """Add ten combinations to a result file, one by one."""
    result = _open_result(path)
    for number in range(10):
        result.add(result.runs[0], f"{name}{number}", {"accuracy": 0.5})


@pytest.mark.parametrize("with_provenance", [True, False])
def test_results_are_reused_after_features_were_moved(with_provenance, tmp_path, monkeypatch):
    make_folder(tmp_path / "here")
    if not with_provenance:
        for path in (tmp_path / "here").rglob("*.h5"):
            with h5py.File(path, "r+") as file:
                for node in (file, *file.values()):
                    for name in list(node.attrs):
                        del node.attrs[name]
    warning = nullcontext() if with_provenance else pytest.warns(UnknownOriginWarning)
    with warning:
        first = knn_concat.run(settings_for(tmp_path / "here"))
        shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(KnnScorer, "__init__", lambda *_, **__: pytest.fail("scored again"))
        reused = knn_concat.run(settings_for(Path("there")))
    assert reused["results"] == first["results"]
    assert not list(tmp_path.rglob("*.previous-*"))
