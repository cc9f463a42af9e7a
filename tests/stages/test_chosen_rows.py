"""A first try on a few rows, and data with damaged items: both under names and records of their own."""

import shutil

import pytest

from fungi.commands import COMMANDS
from fungi.store.reading import provenance_of, read_sample_ids
from tests.stages.conftest import arrays

EXTRACT = COMMANDS["extract"].main


@pytest.fixture
def flags(pictures, tmp_path):
    """Where a copy of the pictures, of which three are damaged, and the features are."""
    shutil.copytree(pictures, tmp_path / "data")
    for path in sorted((tmp_path / "data/pictures/train").rglob("*.png"))[3:12:4]:
        path.write_bytes(path.read_bytes()[:40])
    where = ("--dataset", "pictures", "--data-dir", str(tmp_path / "data"), "--root", str(tmp_path / "features"))
    return [*where, "--device", "cpu", "--block-size", "4"]


def test_damaged_pictures_are_all_named_at_once(flags, capsys):
    assert EXTRACT([*flags, "--split", "train"]) == 2
    said = capsys.readouterr().err
    assert "3 of 14 items can't be read. Replace them, or use --skip-damaged" in said
    assert all(name in said.partition("3 of 14")[2] for name in ("06.png", "01.png", "09.png"))


@pytest.mark.parametrize(
    ("shard", "named"),
    [
        ("1/1", ["class0/06", "class1/01", "class1/09", "class0/02"]),
        ("1/2", ["class0/06", "class1/09", "class0/02"]),
    ],
)
def test_damaged_pictures_of_later_splits_are_named_with_those_of_the_first(shard, named, flags, tmp_path, capsys):
    """A shard names those among its own rows: of the four pictures, one belongs to the other shard."""
    (tmp_path / "data/pictures/test/class0/02.png").write_bytes(b"no picture")
    assert EXTRACT([*flags, "--split", "train", "test", "--shard", shard]) == 2
    heading, *lines = capsys.readouterr().err.strip().splitlines()[-len(named) - 1 :]
    assert f"{len(named)} of 23 items can't be read." in heading
    assert all(f"{name}.png" in line for name, line in zip(named, lines, strict=True))


def test_damaged_pictures_are_left_out_on_request_and_recorded(flags, tmp_path, capsys):
    assert EXTRACT([*flags, "--split", "train", "--skip-damaged"]) == 0
    said = capsys.readouterr().err.splitlines()
    start = said.index("train: leaving out 3 of 14 items:")
    assert [sum(name in line for line in said[start + 1 : start + 4]) for name in ("06.png", "01.png", "09.png")] == [
        1
    ] * 3
    file = tmp_path / "features/embeddings/pictures/digits-vit/train.h5"
    provenance, ids = provenance_of(file), read_sample_ids(file)
    assert (provenance.rows, len(provenance.skipped_samples), len(ids)) == (11, 3, 11)
    assert not set(ids) & set(provenance.skipped_samples)
    assert EXTRACT([*flags, "--split", "test", "--skip-damaged"]) == 0
    assert provenance_of(file.with_name("test.h5")).skipped_samples == []


def test_a_first_try_has_files_of_its_own(embeddings, tmp_path):
    assert embeddings(tmp_path, "--limit", "6") == 0
    few = arrays(tmp_path)
    assert embeddings(tmp_path) == 0
    everything = arrays(tmp_path)
    assert all((everything[name] == values).all() for name, values in few.items())
    limited = "embeddings/pictures-limit6/digits-vit/train.h5"
    full = "embeddings/pictures/digits-vit/train.h5"
    assert len(everything[f"{limited}:targets"]) == 6
    assert set(everything[f"{limited}:targets"]) == {0, 1}
    assert len(everything[f"{full}:targets"]) == 14
    assert set(everything[f"{limited}:sample_ids"]) < set(everything[f"{full}:sample_ids"])
    assert provenance_of(tmp_path / limited).dataset == "pictures-limit6"


def test_a_limit_above_the_number_of_rows_takes_them_all(embeddings, tmp_path):
    assert embeddings(tmp_path, "--limit", "1000", "--split", "test") == 0
    assert provenance_of(tmp_path / "embeddings/pictures-limit1000/digits-vit/test.h5").rows == 9
