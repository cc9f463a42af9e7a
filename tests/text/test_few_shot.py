"""Few-shot rows: balanced draws, and stratified draws as in the published text evaluation."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from fungi.combine.few_shot import few_shot_rows, stratified_rows
from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.report.facts import Setting, heading_text
from fungi.report.protocol import details_of, has_published_protocol, origin_of, setting_of
from fungi.report.words import task_in_words
from fungi.scoring import knn_concat
from fungi.scoring.knn_concat import KnnSettings
from tests.evaluation.feature_folder import PROVENANCE, make_folder

TARGETS = np.repeat([0, 1, 2], [900, 90, 10])


def test_stratified_rows_follow_the_class_sizes():
    rows = stratified_rows(TARGETS, 10)
    assert np.bincount(TARGETS[rows], minlength=3).tolist() == [27, 3, 0]
    assert (np.diff(rows) > 0).all()


def test_stratified_rows_equal_scikit_learn_with_the_published_seed():
    expected_rows, _ = train_test_split(np.arange(len(TARGETS)), train_size=30, stratify=TARGETS, random_state=42)
    assert stratified_rows(TARGETS, 10).tolist() == sorted(expected_rows)
    assert stratified_rows(TARGETS, 10, seed=1).tolist() != sorted(expected_rows)


def test_impossible_stratified_draws_are_refused():
    with pytest.raises(FungiError, match=r"1200 of 1000 train rows is not possible.*--few-shot-sampling balanced"):
        stratified_rows(TARGETS, 400)


BALANCED, STRATIFIED = few_shot_rows(TARGETS, size=3).tolist(), stratified_rows(TARGETS, 3).tolist()
TEXTS, AUDIO = {"dataset": "trec", "backbone": "bert-base-uncased"}, {"dataset": "esc-50", "backbone": "patch-ssast"}


def test_the_flag_selects_the_sampling():
    balanced, stratified = (KnnSettings(shots=3, few_shot_sampling=name) for name in ("balanced", "stratified"))
    for provenances in ([], [replace(PROVENANCE, profile="published", **TEXTS)]):
        assert balanced.rows(TARGETS, None, provenances).tolist() == BALANCED
        assert stratified.rows(TARGETS, None, provenances).tolist() == STRATIFIED
    with pytest.raises(FungiError, match=r"--few-shot-sampling needs a number of shots"):
        KnnSettings(few_shot_sampling="stratified")


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ({**TEXTS, "profile": "published"}, STRATIFIED),
        ({**TEXTS, "dataset": "my-own", "profile": "published"}, STRATIFIED),
        ({**TEXTS, "backbone": "my-own", "profile": "published"}, STRATIFIED),
        ({**TEXTS, "profile": "clean"}, BALANCED),
        ({**AUDIO, "profile": "published"}, BALANCED),
        ({"profile": "published"}, BALANCED),
    ],
)
def test_without_the_flag_the_profile_of_the_features_selects_the_sampling(provenance, expected):
    """The published code used stratified draws only for texts (spec text 6.1, vision 9.4, audio 5)."""
    provenances = [replace(PROVENANCE, **provenance)]
    assert KnnSettings(shots=3).rows(TARGETS, None, provenances).tolist() == expected
    assert KnnSettings().resolved_for(provenances).few_shot_sampling == "balanced", "without shots, nothing is drawn"


@pytest.mark.parametrize("profile", ["clean", "published"])
def test_the_sampling_is_recorded(profile, tmp_path):
    make_folder(tmp_path, features=("embeddings",), dataset="trec")
    for path in tmp_path.rglob("*.h5"):
        with h5py.File(path, "a") as file:
            file.attrs["profile"] = profile
    content = knn_concat.run(KnnSettings(dataset="trec", root=(tmp_path,), shots=3, k=3))
    assert content["settings"]["few_shot_sampling"] == ("stratified" if profile == "published" else "balanced")
    details = details_of(content, origin_of(content))
    assert (("few_shot_sampling", "stratified") in details) == (profile == "published")
    assert ("stratified draw" in heading_text(details)) == (profile == "published")
    (path,) = tmp_path.rglob("*.json")
    assert path.parts[-3] == "knn-3shot-k3"
    assert KnnSettings(dataset="trec", root=(tmp_path,), shots=3, k=3).difference(path) == ""


def test_a_balanced_share_is_the_same_share_of_each_class_and_at_least_one_row():
    rows = few_shot_rows(TARGETS, size=0.1)
    assert np.bincount(TARGETS[rows]).tolist() == [90, 9, 1]
    assert rows.tolist() == [*range(90), *range(900, 909), 990]
    assert np.bincount(TARGETS[few_shot_rows(TARGETS, size=0.001)]).tolist() == [1, 1, 1]
    random_rows = few_shot_rows(TARGETS, size=0.1, seed=3)
    assert np.bincount(TARGETS[random_rows]).tolist() == [90, 9, 1]
    assert random_rows.tolist() != rows.tolist()


def test_a_stratified_share_of_all_rows_equals_scikit_learn():
    expected_rows, _ = train_test_split(np.arange(len(TARGETS)), train_size=0.0155, stratify=TARGETS, random_state=42)
    assert stratified_rows(TARGETS, 0.0155).tolist() == sorted(expected_rows)


def test_an_integer_train_size_is_a_number_of_shots():
    assert KnnSettings(train_size=5.0) == KnnSettings(shots=5)
    share = KnnSettings(train_size=0.1)
    assert share.rows(TARGETS, None, []).tolist() == few_shot_rows(TARGETS, size=0.1).tolist()
    assert replace(share, k=3).train_size == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0.0}, "--train-size 0 is neither a share"),
        ({"train_size": 1.5}, "--train-size 1.5 is neither a share .* nor a whole number of rows per class"),
        ({"train_size": float("nan")}, "--train-size nan is neither"),
        ({"train_size": 0.5, "shots": 3}, "give one of them"),
    ],
)
def test_other_train_sizes_are_refused(options, message):
    with pytest.raises(FungiError, match=message):
        KnnSettings(**options)


def test_a_result_for_a_share_is_recorded_and_reused(tmp_path, capsys):
    make_folder(tmp_path, features=("embeddings", "kl"))
    flags = ["--root", str(tmp_path), "--k", "3", "--pca-dim", "4", "--train-size", "0.25"]
    assert COMMANDS["knn"].main(flags) == 0
    assert "25 % of the train rows" in capsys.readouterr().out
    (path,) = tmp_path.rglob("*.json")
    content = json.loads(path.read_text())
    assert (path.parts[-3], content["settings"]["train_size"]) == ("knn-pca4-share0.25-k3", 0.25)
    assert str(setting_of(content)) == "25-percent"
    # `drawn`: the rows were drawn at random, with --few-shot-seed.
    assert task_in_words("knn", Setting("share", 0.25, drawn=True)).endswith("25 % of the train rows drawn")
    assert not has_published_protocol(content, origin_of(content))
    time_of_result = path.stat().st_mtime_ns
    assert COMMANDS["knn"].main(flags) == 0
    assert COMMANDS["knn"].main([*flags[:-1], "0.5"]) == 0
    assert path.stat().st_mtime_ns == time_of_result
    assert len(list(tmp_path.rglob("*.json"))) == 2


def test_no_row_is_drawn_twice_and_every_class_has_its_shots():
    targets = np.repeat(np.arange(4), 6)
    for seed in (None, *range(20)):
        rows = few_shot_rows(targets, size=5, seed=seed)
        assert len(set(rows.tolist())) == 20
        assert np.bincount(targets[rows]).tolist() == [5, 5, 5, 5]
