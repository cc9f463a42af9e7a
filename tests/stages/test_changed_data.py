"""Other pictures under the same names are other data: nothing that was made of the earlier ones is kept or joined."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fungi.commands import COMMANDS
from tests.stages.conftest import assert_same_files

EXTRACT, GRADIENTS, KNN = (COMMANDS[name].main for name in ("extract", "extract-gradients", "knn"))


@pytest.fixture
def flags(pictures: Path, tmp_path: Path) -> tuple[str, ...]:
    """Where a copy of the pictures and the features are."""
    shutil.copytree(pictures, tmp_path / "data")
    return ("--dataset", "pictures", "--data-dir", str(tmp_path / "data"), "--root", str(tmp_path / "features"))


def change(tmp_path: Path, split: str) -> None:
    path = next((tmp_path / "data" / "pictures" / split).rglob("*.png"))
    image = Image.open(path).convert("RGB")
    image.putpixel((3, 4), tuple(255 - value for value in image.getpixel((3, 4))))
    image.save(path)


@pytest.mark.slow
def test_changed_pixels_are_not_kept(flags, tmp_path, capsys):
    assert EXTRACT([*flags, "--device", "cpu"]) == 0
    assert EXTRACT([*flags, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("kept") == 2
    change(tmp_path, "test")
    assert EXTRACT([*flags, "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"dataset fingerprint: \w{12} -> \w{12}\. .*test.h5 was computed in another way", said)
    assert EXTRACT([*flags, "--device", "cpu", "--overwrite"]) == 0
    written = capsys.readouterr().out
    assert written.count("kept") == written.count("wrote") == 1


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_embeddings_of_earlier_pictures_do_not_join_gradients_of_later_ones(split, flags, tmp_path, capsys):
    assert EXTRACT([*flags, "--device", "cpu"]) == 0
    change(tmp_path, split)
    assert GRADIENTS([*flags, "--device", "cpu", "--objective", "kl"]) == 0
    assert KNN([*flags[:2], *flags[4:], "--backbone", "digits-vit", "--k", "3"]) == 2
    assert "dataset fingerprint differs" in capsys.readouterr().err


@pytest.mark.slow
def test_moved_and_copied_data_is_the_same_data(flags, tmp_path, capsys):
    assert EXTRACT([*flags, "--device", "cpu"]) == 0
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "data", moved, copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "data")
    capsys.readouterr()
    assert EXTRACT([*flags[:3], str(moved), *flags[4:], "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("kept") == 2
    assert EXTRACT([*flags[:3], str(moved), "--root", str(tmp_path / "anew"), "--device", "cpu"]) == 0
    assert_same_files(tmp_path / "features", tmp_path / "anew")
