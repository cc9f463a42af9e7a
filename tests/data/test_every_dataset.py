"""Laws for every registered dataset, tested on a miniature in the format of the dataset.

A new dataset needs a miniature in `tests/data/miniatures`. Without it, the first test fails.
"""

import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fungi.data.base import DATASETS, open_split
from fungi.errors import FungiError, MissingFilesError
from tests.data.miniatures import miniatures
from tests.data.miniatures.miniature import mean_colour

NAMES = DATASETS.names()
INCLUDED = ("digit-scenes", "digits", "patterns", "pydocs", "tones")
"""Datasets that come with Python packages or are generated, and have no files."""
ON_DISK = [name for name in NAMES if name not in INCLUDED]
IN_MEMORY = [name for name in NAMES if name in ("cifar10", "cifar100") or DATASETS[name].modality == "text"]
"""Datasets that are read into memory."""
WITH_FILES = [name for name in ON_DISK if name not in IN_MEMORY]
"""Datasets with one file (image or sound) per row."""


def test_every_dataset_has_a_miniature():
    assert sorted(miniatures()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_rows_labels_and_order_equal_the_source(name, miniature):
    dataset = miniature(name)
    for split, rows in dataset.expected.splits.items():
        samples = dataset.open(split)
        assert list(samples.ids) == [row.id for row in rows]
        assert samples.targets.tolist() == [row.label for row in rows]
        assert list(samples.class_names) == dataset.expected.class_names


@pytest.mark.parametrize("name", [name for name in NAMES if DATASETS[name].modality == "vision"])
def test_every_row_loads_its_image_in_rgb(name, miniature):
    dataset = miniature(name)
    for split, rows in dataset.expected.splits.items():
        samples = dataset.open(split)
        for row in range(min(len(samples), 20)):
            image, label = samples[row]
            assert image.mode == "RGB"
            assert label == rows[row].label
            if rows[row].colour:  # JPEG changes a uniform colour by a few levels
                np.testing.assert_allclose(mean_colour(image), rows[row].colour, atol=6)


@pytest.mark.parametrize("name", NAMES)
def test_the_registered_splits_are_the_existing_splits(name, miniature):
    assert set(miniature(name).expected.splits) == set(DATASETS[name].splits)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_split_is_refused_with_the_known_splits(name, miniature):
    dataset = miniature(name)
    with pytest.raises(FungiError, match=rf"'{name}' has no split 'dev'\. It has: train, .*test"):
        dataset.open("dev")


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_does_not_depend_on_the_path(name, miniature, tmp_path):
    dataset = miniature(name)
    before = dataset.open("train").fingerprint()
    shutil.move(dataset.data_dir, tmp_path / "moved" / "elsewhere")
    assert open_split(name, "train", tmp_path / "moved" / "elsewhere").fingerprint() == before


@pytest.mark.parametrize("name", NAMES)
def test_splits_have_different_fingerprints(name, miniature):
    dataset = miniature(name)
    fingerprints = [dataset.open(split).fingerprint() for split in dataset.expected.splits]
    assert len(set(fingerprints)) == len(fingerprints)


@pytest.mark.parametrize("name", NAMES)
def test_pickled_samples_are_equal(name, miniature):
    samples = miniature(name).open("test")
    unpickled = pickle.loads(pickle.dumps(samples))
    assert unpickled.fingerprint() == samples.fingerprint()
    np.testing.assert_array_equal(np.asarray(unpickled.load(1)), np.asarray(samples.load(1)))


@pytest.mark.parametrize("name", ON_DISK)
def test_the_error_for_missing_files_names_files_folder_and_command(name, tmp_path):
    with pytest.raises(MissingFilesError) as error:
        open_split(name, "train", tmp_path)
    text = str(error.value)
    assert f"dataset {name!r}" in text
    assert str(tmp_path) in text
    assert "python scripts/" in text
    assert "\n" not in text


@pytest.mark.parametrize("name", WITH_FILES)
def test_the_error_for_a_damaged_file_names_the_file_and_the_sample(name, miniature):
    dataset = miniature(name)
    sample_id = dataset.expected.splits["train"][0].id
    dataset.expected.files[sample_id].write_bytes(b"neither an image nor a sound")
    with pytest.raises(FungiError) as error:
        dataset.open("train").load(0)
    assert str(dataset.expected.files[sample_id]) in str(error.value)
    assert repr(sample_id) in str(error.value)


@pytest.mark.parametrize("name", WITH_FILES)
def test_the_error_for_a_missing_file_names_the_file(name, miniature):
    dataset = miniature(name)
    samples = dataset.open("test")
    path = dataset.expected.files[dataset.expected.splits["test"][0].id]
    path.unlink()
    with pytest.raises(MissingFilesError, match="there is no file") as error:
        samples.load(0)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", [name for name in NAMES if DATASETS[name].prepare])
def test_preparation_gives_the_same_rows_and_is_safe_to_repeat(name, miniature, tmp_path, monkeypatch):
    dataset = miniature(name)
    (tmp_path / "archives").mkdir()
    miniatures()[name].pack(dataset.data_dir, tmp_path / "archives", monkeypatch)
    prepared = tmp_path / "prepared"
    DATASETS[name].prepare(prepared, tmp_path / "archives")
    shutil.rmtree(tmp_path / "archives")
    DATASETS[name].prepare(prepared, tmp_path / "archives")  # the files exist, so no archive is needed
    for split in dataset.expected.splits:
        samples = open_split(name, split, prepared)
        assert samples.fingerprint() == dataset.open(split).fingerprint()
        assert list(samples.class_names) == dataset.expected.class_names
        samples.load(0)
    assert not [path for path in prepared.rglob("*") if ".partial-" in path.name]


@pytest.mark.parametrize("name", [name for name in NAMES if DATASETS[name].prepare])
def test_preparation_names_the_missing_archive(name, tmp_path):
    with pytest.raises(MissingFilesError, match=rf"there is no .* in {tmp_path}"):
        DATASETS[name].prepare(tmp_path / "data", tmp_path)


@pytest.mark.parametrize(
    ("name", "method"), [("pets", "fork"), ("cifar10", "fork"), pytest.param("pets", "spawn", marks=pytest.mark.slow)]
)
def test_workers_of_any_kind_load_the_same_images(name, method, miniature):
    samples = miniature(name).open("train")
    loader = DataLoader(_Pixels(samples), batch_size=2, num_workers=2, multiprocessing_context=method)
    expected = torch.stack([_Pixels(samples)[row] for row in range(len(samples))])
    assert torch.equal(torch.cat(list(loader)), expected)


class _Pixels(torch.utils.data.Dataset):
    """The images of a split as tensors."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, row):
        return torch.from_numpy(np.array(self.samples.load(row)))
