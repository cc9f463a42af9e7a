"""Pets and CUB saved by the published code have the same rows and ids as the image files."""

import shutil
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, disable_progress_bars

from fungi.data.base import open_split
from fungi.errors import FungiError
from tests.data.miniatures.miniature import mean_colour

disable_progress_bars()


def _save(dataset, folder: Path, labels: ClassLabel) -> None:
    """Save a copy of a dataset as the published code does. The copy contains the images and their file names."""
    features, splits = Features({"image": Image(), "label": labels}), {}
    for split, rows in dataset.expected.splits.items():
        columns = {
            "image": [str(dataset.expected.files[row.id]) for row in rows],
            "label": [row.label for row in rows],
        }
        splits[split] = Dataset.from_dict(columns, features=features)
    DatasetDict(splits).save_to_disk(folder)


@pytest.mark.parametrize(("name", "folder"), [("pets", "pets-hf"), ("cub-200", "cub-hf")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_saved_copy_has_the_same_rows_as_the_files(name, folder, split, miniature, tmp_path):
    dataset = miniature(name)
    names = dataset.expected.class_names
    labels = ClassLabel(names=names) if name == "cub-200" else ClassLabel(len(names))
    _save(dataset, tmp_path / "saved" / folder, labels)
    from_files = dataset.open(split)
    fingerprint = from_files.fingerprint()
    colours = [mean_colour(from_files.load(row)) for row in range(len(from_files))]
    shutil.rmtree(dataset.data_dir)
    from_copy = open_split(name, split, tmp_path / "saved")
    assert from_copy.fingerprint() == fingerprint
    assert [mean_colour(from_copy.load(row)) for row in range(len(from_copy))] == colours


def test_the_error_for_a_missing_split_of_a_saved_copy_names_its_folder(miniature, tmp_path):
    dataset = miniature("pets")
    _save(dataset, tmp_path / "saved" / "pets-hf", ClassLabel(3))
    shutil.rmtree(tmp_path / "saved" / "pets-hf" / "test")
    with pytest.raises(FungiError, match="pets-hf/test is not a split of a dataset saved to disk"):
        open_split("pets", "test", tmp_path / "saved")
