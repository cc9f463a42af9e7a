"""Features of different provenance are not joined, and errors name the files."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.commands import COMMANDS
from fungi.errors import FungiError, MissingFilesError, RefusedJoinError
from fungi.scoring import knn_concat
from fungi.scoring.feature_files import open_splits
from fungi.scoring.knn_concat import KnnSettings
from fungi.store.reading import UnknownOriginWarning, open_array, read_targets
from tests.evaluation.feature_folder import LAYER, PROVENANCE, make_folder, write_array

VALUES = np.random.default_rng(0).normal(size=(120, 12))


def rewrite(layout, feature: str, split: str, *, layer=LAYER, values=None, **provenance) -> Path:
    """Write one file of the folder again with another provenance, and return its path."""
    path = layout.features(feature, "digits", "digits-vit", split)
    rows = 120 if split == "train" else 60
    values = VALUES[:rows] if values is None else values
    record = replace(PROVENANCE, feature=feature, split=split, dataset_fingerprint=f"rows-of-{split}")
    return write_array(path, "attn_proj", values, provenance=replace(record, **provenance), layer=layer)


def run(tmp_path: Path, **options):
    """Score the features with kNN, and return the content of the result file."""
    return knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=4, k=5, **options))


# Fact in the message -> arguments of `rewrite` that change it.
CHANGED_FACTS_OF_SAME_SPLIT = {
    "projection": {"layer": replace(LAYER, projection_hash="projection-b")},
    "backbone weights": {"weights_hash": "weights-b"},
    "layer": {"layer": replace(LAYER, layer="blocks.4.attn.proj")},
    "dataset fingerprint": {"dataset_fingerprint": "other-rows"},
    "row count": {"values": VALUES[:119]},
    "profile": {"profile": "published"},
    "bias": {"layer": replace(LAYER, bias=False)},
}
# Fact -> its values in both files, as the message prints them.
VALUES_IN_MESSAGE = {
    "projection": ("'projection-a'", "'projection-b'"),
    "backbone weights": ("'weights-a'", "'weights-b'"),
    "layer": ("'blocks.5.attn.proj'", "'blocks.4.attn.proj'"),
    "dataset fingerprint": ("'rows-of-train'", "'other-rows'"),
    "row count": ("120", "119"),
    "profile": ("'clean'", "'published'"),
    "bias": ("True", "False"),
}


@pytest.mark.parametrize("fact", CHANGED_FACTS_OF_SAME_SPLIT)
def test_features_of_different_provenance_are_refused_with_both_values_and_files(fact, tmp_path):
    layout = make_folder(tmp_path)
    changed = rewrite(layout, "kl", "train", **CHANGED_FACTS_OF_SAME_SPLIT[fact])
    with pytest.raises(RefusedJoinError) as error:
        run(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{fact} differs: ")
    assert all(value in message for value in VALUES_IN_MESSAGE[fact])
    assert f"{changed}:attn_proj" in message
    # Facts that only gradients have are compared with DINO, other facts with the embeddings.
    other_file = "dino-train.h5" if fact in ("projection", "layer", "bias") else "train.h5:embeddings"
    assert other_file in message
    assert "\n" not in message


# Start of the message -> arguments of `rewrite` that cause it.
CHANGED_FACTS_OF_SAME_FEATURE = {
    "projection": {"layer": replace(LAYER, projection_hash="projection-b")},
    "seed": {"seed": 43},
    "objective settings": {"objective_settings": {"temperature": 1}},
    "supporting data": {"support_hash": "other-negatives"},
    "feature size": {"values": VALUES[:60, :8]},
}


@pytest.mark.parametrize("fact", CHANGED_FACTS_OF_SAME_FEATURE)
def test_train_and_test_features_with_different_settings_are_refused(fact, tmp_path):
    layout = make_folder(tmp_path, features=("embeddings", "kl"))
    changed = rewrite(layout, "kl", "test", **CHANGED_FACTS_OF_SAME_FEATURE[fact])
    with pytest.raises(RefusedJoinError) as error:
        run(tmp_path)
    assert str(error.value).startswith(fact)
    assert str(changed) in str(error.value)
    assert "kl-train.h5" in str(error.value)


def test_an_error_names_only_the_settings_that_differ(tmp_path):
    layout = make_folder(tmp_path, features=("embeddings", "kl"))
    for split, settings in (("train", {"temperature": 15, "head": 768}), ("test", {"temperature": 15, "views": 3})):
        rewrite(layout, "kl", split, objective_settings=settings)
    with pytest.raises(
        RefusedJoinError, match=r"objective settings differs: \{'head': 768\} in .*, \{'views': 3\} in "
    ):
        run(tmp_path)


def test_labels_of_another_split_are_refused(tmp_path):
    layout = make_folder(tmp_path, features=("embeddings",))
    train = layout.embeddings("digits", "digits-vit", "train")
    test = layout.embeddings("digits", "digits-vit", "test")
    files = {"train_embeddings_datasets": (train,), "test_embeddings_datasets": (test,), "train_targets": test}
    with pytest.raises(RefusedJoinError, match=r"row count differs: 60 in .*test.h5:targets, 120 in .*train.h5:emb"):
        knn_concat.run(KnnSettings(**files, output=tmp_path / "r.json"))


def test_files_without_provenance_are_read_with_one_warning_and_join_any_file(tmp_path):
    layout = make_folder(tmp_path)
    for split in ("train", "test"):
        path = layout.gradients("digits", "digits-vit", "kl", split)
        write_array(path, "attn_proj", VALUES[: 120 if split == "train" else 60])
    with pytest.warns(UnknownOriginWarning, match=r"kl-test.h5 and 1 more: no provenance") as warnings:
        run(tmp_path)
    assert len([warning for warning in warnings if warning.category is UnknownOriginWarning]) == 1


@pytest.mark.slow
def test_folders_of_the_published_code_are_read(tmp_path):
    """Move the gradients to the place that they have in the published code: there is no folder `gradients`."""
    layout = make_folder(tmp_path)
    results = run(tmp_path)["results"]
    (tmp_path / "results").rename(tmp_path / "earlier-results")
    (layout.root / "gradients" / "digits").rename(layout.root / "digits")
    (layout.root / "gradients").rmdir()
    results_of_published_folder = run(tmp_path)["results"]
    assert len(results_of_published_folder) == 7
    assert results_of_published_folder == results


def test_an_error_names_a_truncated_file(tmp_path):
    layout = make_folder(tmp_path)
    path = layout.gradients("digits", "digits-vit", "kl", "train")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(
        FungiError, match=r"kl-train.h5 can't be read as HDF5 .* truncated, damaged or of another format"
    ):
        run(tmp_path)


def test_an_unfinished_file_is_refused(tmp_path):
    layout = make_folder(tmp_path)
    rewrite(layout, "kl", "train", complete=False)
    with pytest.raises(FungiError, match=r"kl-train.h5 is not finished"):
        run(tmp_path)


def test_an_error_names_the_file_of_a_missing_split(tmp_path):
    make_folder(tmp_path, rows={"train": 40})
    with pytest.raises(MissingFilesError, match=r"digits/digits-vit/test.h5 does not exist. Extract it first"):
        run(tmp_path)


def test_an_error_names_the_folder_without_features(tmp_path):
    with pytest.raises(MissingFilesError, match=r"no features of dataset 'digits', backbone 'digits-vit'.*looked for"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"backbone": "mine"}, "There are features of the backbones digits-vit."),
        ({"train_split": "trian"}, "There are features of the splits test, train."),
        ({"features": ("embedding",)}, "unknown feature 'embedding'. Did you mean 'embeddings'?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_existing_names(setting, text, tmp_path):
    make_folder(tmp_path)
    with pytest.raises(FungiError) as error:
        run(tmp_path, **setting)
    assert text in str(error.value)
    assert len(str(error.value).replace(str(tmp_path), "features")) < 300


def test_an_unknown_layer_key_is_refused_with_the_existing_keys(tmp_path):
    make_folder(tmp_path)
    with pytest.raises(FungiError, match=r"has no array 'mlp'. It contains: attn_proj"):
        run(tmp_path, layer_key="mlp")


def test_the_only_layer_of_a_file_needs_no_key(tmp_path):
    layout = make_folder(tmp_path, features=("embeddings", "kl"))
    for split in ("train", "test"):
        path = layout.gradients("digits", "digits-vit", "kl", split)
        with h5py.File(path, "a") as file:
            file.move("attn_proj", "qkv")
    assert open_splits(KnnSettings(), tmp_path, ("train",))["train"].arrays["kl"].key == "qkv"


def test_an_error_of_the_command_is_one_line_with_exit_status_2(tmp_path, capsys):
    assert COMMANDS["knn"].main(["--root", str(tmp_path)]) == 2
    start, message, *other_lines = capsys.readouterr().err.splitlines()
    assert start == "knn_concat.py: dataset digits, backbone digits-vit"
    assert message.startswith("knn_concat.py: there are no features of dataset")
    assert not other_lines


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--k", "0"], "--k has to be at least 1"),
        (["--pca-dim", "0"], "--pca-dim has to be at least 1"),
        (["--few-shot-seed", "1"], "needs a number of shots: add --shots"),
        (["--root"], "--root needs at least one folder"),
        (["--root", "a", "a"], "names the same folder twice"),
        (["--train-datasets", "kl.h5"], "kl.h5 does not exist. Check the path. For an array in a file, write FILE:KEY"),
    ],
)
def test_wrong_flags_are_explained(flags, message, capsys):
    assert COMMANDS["knn"].main(flags) == 2
    assert message in capsys.readouterr().err


def test_unpaired_explicit_files_are_refused(tmp_path):
    layout = make_folder(tmp_path)
    train = layout.embeddings("digits", "digits-vit", "train")
    with pytest.raises(FungiError, match=r"the test split has 0 feature files, but the train split has 1"):
        knn_concat.run(KnnSettings(train_embeddings_datasets=(train,), test_targets=train))


@pytest.mark.slow
def test_damaged_bytes_never_end_in_a_stack_trace(tmp_path):
    """Overwrite random bytes of a file. Reading gives rows, or an error that names the file."""
    layout = make_folder(tmp_path, rows={"train": 30, "test": 10}, features=("embeddings", "kl"))
    path = layout.gradients("digits", "digits-vit", "kl", "train")
    intact, generator, messages = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(150):
        damaged = bytearray(intact)
        start, length = int(generator.integers(len(intact))), int(generator.integers(1, 512))
        damaged[start : start + length] = generator.bytes(len(damaged[start : start + length]))
        path.write_bytes(damaged)
        try:
            open_array(path, "attn_proj").read(0, 30)
        except FungiError as error:
            messages.append(str(error))
    assert len(messages) > 5
    assert all(str(path) in message for message in messages)


def test_labels_that_are_not_integers_are_refused(tmp_path):
    layout = make_folder(tmp_path)
    path = layout.embeddings("digits", "digits-vit", "train")
    with h5py.File(path, "a") as file:
        del file["targets"]
        file["targets"] = np.linspace(0, 1, 120)
    with pytest.raises(FungiError, match=r"the labels have type float64"):
        read_targets(path)


def test_an_unknown_dataset_is_refused_with_a_similar_name(tmp_path):
    make_folder(tmp_path)
    with pytest.raises(MissingFilesError, match=r"Did you mean 'digits'\?"):
        knn_concat.run(KnnSettings(root=(tmp_path,), dataset="digit"))
