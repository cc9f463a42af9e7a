"""Results contain the ids and class names of their rows, and warnings about labels that make a score meaningless."""

import h5py
import numpy as np
import pytest

from fungi.report.cells import ResultRecord
from fungi.report.gallery import class_names, figures_of
from fungi.scoring import knn_concat
from fungi.scoring.evaluation_loop import warnings_of_labels
from fungi.scoring.knn_concat import KnnSettings
from tests.evaluation.feature_folder import make_folder


def named_folder(root):
    """Write feature files whose embeddings have sample ids and class names, like those of an extraction."""
    make_folder(root, rows={"train": 40, "test": 12}, classes=3, features=("embeddings", "kl"))
    for path in root.rglob("embeddings/**/*.h5"):
        with h5py.File(path, "a") as file:
            texts = h5py.string_dtype()
            file.create_dataset(
                "sample_ids", data=[f"{path.stem}/ü{row}.png" for row in range(len(file["targets"]))], dtype=texts
            )
            file.create_dataset("class_names", data=["cat", "dog", "mouse"], dtype=texts)


def test_sample_ids_and_class_names_are_copied_from_feature_files_to_results_and_figures(tmp_path):
    named_folder(tmp_path)
    result = knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=4, k=3))
    assert result["sample_ids"] == [f"test/ü{row}.png" for row in range(12)]
    assert result["class_names"] == ["cat", "dog", "mouse"]
    assert len(result["test_targets"]) == len(result["results"]["kl"]["predictions"]) == 12
    assert class_names(result, tmp_path) == ["cat", "dog", "mouse"]
    assert class_names(result | {"test_targets": [0, 2]}, tmp_path) == ["cat", "mouse"]
    assert knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=4, k=3)) == result
    (figure,) = figures_of(tmp_path, [ResultRecord(tmp_path / "x.json", result)], [], [])
    assert figure.path.name.startswith("per-class")


def test_results_of_files_without_names_have_no_names(tmp_path):
    make_folder(tmp_path, rows={"train": 40, "test": 12}, features=("embeddings",))
    assert not {"sample_ids", "class_names"} & knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=4, k=3)).keys()


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 0, 0], [0, 0], "all train rows have the same label (0)"),
        ([0, 1, 1], [1, 1], "all scored rows have the same label (1)"),
        ([0, 1, 1], [0, 2], "1 label without a train row (2): 1 scored row can't"),
        ([0, 1, 1], [0, 1], ""),
    ],
)
def test_labels_without_information_give_a_warning(train, test, message):
    texts = warnings_of_labels(np.array(train), np.array(test))
    assert message in " ".join(texts)
    assert bool(texts) == bool(message)
