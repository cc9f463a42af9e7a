"""Features of few rows have their own files. Files record the damaged items that an extraction left out."""

import shutil

import pytest

from fungi.commands import COMMANDS
from fungi.store.reading import provenance_of, read_sample_ids
from tests.stages.conftest import arrays

EXTRACT = COMMANDS["extract"].main


@pytest.fixture
def flags(pictures, tmp_path):
    """Copy the pictures, damage three of them, and return the flags for the copy and a root."""
    shutil.copytree(pictures, tmp_path / "data")
    for path in sorted((tmp_path / "data/pictures/train").rglob("*.png"))[3:12:4]:  # rows 3, 7 and 11
        path.write_bytes(path.read_bytes()[:40])
    common = ["--dataset", "pictures", "--data-dir", str(tmp_path / "data"), "--root", str(tmp_path / "features")]
    return [*common, "--device", "cpu", "--block-size", "4"]


def test_one_message_names_all_damaged_pictures(flags, capsys):
    assert EXTRACT([*flags, "--split", "train"]) == 2
    error = capsys.readouterr().err
    assert "3 of 14 items can't be read. Replace them, or use --skip-damaged" in error
    assert all(name in error.partition("3 of 14")[2] for name in ("06.png", "01.png", "09.png"))


@pytest.mark.parametrize(
    ("shard", "names"),
    [
        ("1/1", ["class0/06", "class1/01", "class1/09", "class0/02"]),
        ("1/2", ["class0/06", "class1/09", "class0/02"]),
    ],
)
def test_the_message_names_the_damaged_pictures_of_all_splits(shard, names, flags, tmp_path, capsys):
    """A shard checks only its own rows, and one of the four damaged pictures belongs to the other shard."""
    (tmp_path / "data/pictures/test/class0/02.png").write_bytes(b"not a picture")
    assert EXTRACT([*flags, "--split", "train", "test", "--shard", shard]) == 2
    heading, *lines = capsys.readouterr().err.strip().splitlines()[-len(names) - 1 :]
    assert f"{len(names)} of 23 items can't be read." in heading
    assert all(f"{name}.png" in line for name, line in zip(names, lines, strict=True))


def test_damaged_pictures_are_skipped_on_request_and_recorded(flags, tmp_path, capsys):
    assert EXTRACT([*flags, "--split", "train", "--skip-damaged"]) == 0
    lines = capsys.readouterr().err.splitlines()
    start = lines.index("train: leaving out 3 of 14 items:")
    for name in ("06.png", "01.png", "09.png"):
        assert sum(name in line for line in lines[start + 1 : start + 4]) == 1
    file = tmp_path / "features/embeddings/pictures/digits-vit/train.h5"
    provenance, ids = provenance_of(file), read_sample_ids(file)
    assert (provenance.rows, len(provenance.skipped_samples), len(ids)) == (11, 3, 11)
    assert not set(ids) & set(provenance.skipped_samples)
    assert EXTRACT([*flags, "--split", "test", "--skip-damaged"]) == 0
    assert provenance_of(file.with_name("test.h5")).skipped_samples == []


def test_features_of_few_rows_have_their_own_files(embeddings, tmp_path):
    assert embeddings(tmp_path, "--limit", "6") == 0
    arrays_before = arrays(tmp_path)
    assert embeddings(tmp_path) == 0
    everything = arrays(tmp_path)
    assert all((everything[name] == values).all() for name, values in arrays_before.items())
    limited = "embeddings/pictures-limit6/digits-vit/train.h5"
    full = "embeddings/pictures/digits-vit/train.h5"
    assert len(everything[f"{limited}:targets"]) == 6
    assert set(everything[f"{limited}:targets"]) == {0, 1}
    assert len(everything[f"{full}:targets"]) == 14
    assert set(everything[f"{limited}:sample_ids"]) < set(everything[f"{full}:sample_ids"])
    assert provenance_of(tmp_path / limited).dataset == "pictures-limit6"


def test_a_limit_above_the_number_of_rows_takes_all_rows(embeddings, tmp_path):
    assert embeddings(tmp_path, "--limit", "1000", "--split", "test") == 0
    assert provenance_of(tmp_path / "embeddings/pictures-limit1000/digits-vit/test.h5").rows == 9
