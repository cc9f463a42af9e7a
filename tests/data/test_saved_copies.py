"""Pets and CUB as the original harness saved them: the same rows, under the same ids, as from the image files."""

import shutil
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, disable_progress_bars

from fungi.data.base import open_split
from fungi.errors import FungiError
from tests.data.makers.miniature import uniform

disable_progress_bars()


def _save(made, folder: Path, labels: ClassLabel) -> None:
    """A copy whose images remember the files they came from, as the original scripts made it."""
    features = Features({"image": Image(), "label": labels})
    splits = {
        split: Dataset.from_dict(
            {"image": [str(made.expected.files[row.id]) for row in rows], "label": [row.label for row in rows]},
            features=features,
        )
        for split, rows in made.expected.splits.items()
    }
    DatasetDict(splits).save_to_disk(folder)


@pytest.mark.parametrize(("name", "folder"), [("pets", "pets-hf"), ("cub-200", "cub-hf")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_saved_copy_has_the_rows_of_the_files(name, folder, split, miniature, tmp_path):
    made = miniature(name)
    names = made.expected.class_names
    _save(made, tmp_path / "saved" / folder, ClassLabel(names=names) if name == "cub-200" else ClassLabel(len(names)))
    from_files = made.open(split)
    fingerprint, images = from_files.fingerprint(), [uniform(from_files.load(row)) for row in range(len(from_files))]
    shutil.rmtree(made.data_dir)
    from_copy = open_split(name, split, tmp_path / "saved")
    assert from_copy.fingerprint() == fingerprint
    assert [uniform(from_copy.load(row)) for row in range(len(from_copy))] == images


def test_split_missing_from_a_saved_copy_is_named(miniature, tmp_path):
    made = miniature("pets")
    _save(made, tmp_path / "saved" / "pets-hf", ClassLabel(3))
    shutil.rmtree(tmp_path / "saved" / "pets-hf" / "test")
    with pytest.raises(FungiError, match="pets-hf/test is not a split of a dataset saved to disk"):
        open_split("pets", "test", tmp_path / "saved")
