"""Fitted rows are scored only on request, even if they are in a split with another name."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.report.cells import cells_of, read_results
from fungi.report.tables import make_tables, to_markdown
from fungi.scoring import knn_concat
from fungi.scoring.knn_concat import KnnSettings
from tests.evaluation.feature_folder import make_folder


@pytest.mark.slow
def test_fitted_rows_are_scored_only_on_request_and_the_table_says_so(tmp_path, capsys):
    make_folder(tmp_path)
    shared_flags = ["--root", str(tmp_path), "--pca-dim", "4"]
    knn_flags = [*shared_flags, "--k", "1"]
    for command, flags in (
        ("knn", [*knn_flags, "--train-split", "test"]),
        ("linear", [*shared_flags, "--train-split", "test"]),
        ("linear", [*shared_flags, "--valid-split", "test"]),
    ):
        assert COMMANDS[command].main(flags) == 2
        error = capsys.readouterr().err
        assert "are also in the " in error
        assert "--score-fitted-rows" in error
    assert COMMANDS["knn"].main([*knn_flags, "--train-split", "test", "--score-fitted-rows"]) == 0
    output = capsys.readouterr().out
    assert "warning: all scored rows are equal to rows of the train split, which was fitted on." in output
    (record,) = read_results([tmp_path])
    assert {"fit-on-test", "fitted-rows"} <= set(re.findall(r"fit-on-test|fitted-rows", record.path.parts[-3]))
    assert "FITTED ROWS ARE SCORED" in to_markdown(make_tables(cells_of(record)))
    assert COMMANDS["knn"].main(knn_flags) == 0
    assert "fitted on" not in capsys.readouterr().out


def test_fitted_rows_are_recognised_by_file_and_fingerprint(tmp_path):
    layout = make_folder(tmp_path, features=("embeddings",))
    train = layout.embeddings("digits", "digits-vit", "train")
    link = tmp_path / "link.h5"
    link.symlink_to(train)
    copy = tmp_path / "copy.h5"
    copy.write_bytes(train.read_bytes())
    for scored in (train, link, copy):
        settings = KnnSettings(
            train_embeddings_datasets=(train,), test_embeddings_datasets=(scored,), output=tmp_path / "r.json"
        )
        with pytest.raises(FungiError, match=r"are also in the train split, which is fitted on"):
            knn_concat.run(settings)


def write_overlapping_splits(root: Path, shared: int) -> None:
    """Write features of train, test and trainval, so that the first `shared` rows of trainval are test rows.

    The shared rows have the rounding differences that features of the same sample have in different batches.
    """
    make_folder(root, rows={"train": 120, "test": 60, "trainval": 90})
    generator = np.random.default_rng(0)
    for path in [*root.rglob("*/test.h5"), *root.rglob("*-test.h5")]:
        path_of_trainval = path.with_name(path.name.replace("test", "trainval"))
        with h5py.File(path) as test, h5py.File(path_of_trainval, "r+") as trainval:
            for name in set(test) - {"targets"}:
                rows = test[name][:shared]
                trainval[name][:shared] = rows * (1 + 1e-6 * generator.normal(size=rows.shape))


def test_fitted_rows_are_recognised_in_a_split_with_another_name(tmp_path, capsys):
    """Train on a split that contains test rows, and has another file and another fingerprint than the test split."""
    write_overlapping_splits(tmp_path, 30)  # a rounding difference can hide one of the 30 rows
    flags = ["--root", str(tmp_path), "--pca-dim", "4", "--k", "1", "--train-split", "trainval"]
    assert COMMANDS["knn"].main(flags) == 2
    assert re.search(r"(29|30) of the 60 rows to score .* are also in the train split", capsys.readouterr().err)
    assert COMMANDS["knn"].main([*flags, "--score-fitted-rows"]) == 0
    assert re.search(r"warning: (29|30) of the 60 scored rows are equal to rows of the train", capsys.readouterr().out)


def test_a_few_duplicate_rows_give_a_warning_and_are_scored(tmp_path):
    write_overlapping_splits(tmp_path, 3)
    content = knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=4, k=5, train_split="trainval"))
    assert content["warnings"] == ["3 of the 60 scored rows are equal to rows of the train split, which was fitted on."]
    assert not knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=4, k=5))["warnings"]


def test_constant_rows_do_not_count_as_fitted_rows(tmp_path):
    make_folder(tmp_path, features=("embeddings",))
    for path in tmp_path.rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["embeddings"][:] = 1
    with pytest.raises(FungiError, match="have the same values"):
        knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=4, k=5))
