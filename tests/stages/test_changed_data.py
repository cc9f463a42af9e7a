"""Pictures that change under the same names are other data: features of the old pictures are not reused or joined."""

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
    """Copy the pictures, and return the flags for the copy and a root."""
    shutil.copytree(pictures, tmp_path / "data")
    return ("--dataset", "pictures", "--data-dir", str(tmp_path / "data"), "--root", str(tmp_path / "features"))


def change(tmp_path: Path, split: str) -> None:
    """Change a pixel of a picture of the split."""
    path = next((tmp_path / "data" / "pictures" / split).rglob("*.png"))
    image = Image.open(path).convert("RGB")
    image.putpixel((3, 4), tuple(255 - value for value in image.getpixel((3, 4))))
    image.save(path)


@pytest.mark.slow
def test_features_of_changed_pixels_are_refused_or_overwritten(flags, tmp_path, capsys):
    assert EXTRACT([*flags, "--device", "cpu"]) == 0
    assert EXTRACT([*flags, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("kept") == 2
    change(tmp_path, "test")
    assert EXTRACT([*flags, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"dataset fingerprint: \w{12} -> \w{12}\. .*test.h5 was computed in another way", error)
    assert EXTRACT([*flags, "--device", "cpu", "--overwrite"]) == 0
    output = capsys.readouterr().out
    assert output.count("kept") == output.count("wrote") == 1


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_embeddings_of_old_pictures_are_not_joined_with_gradients_of_new_ones(split, flags, tmp_path, capsys):
    assert EXTRACT([*flags, "--device", "cpu"]) == 0
    change(tmp_path, split)
    assert GRADIENTS([*flags, "--device", "cpu", "--objective", "kl"]) == 0
    without_data_dir = [*flags[:2], *flags[4:]]  # KNN has no flag --data-dir
    assert KNN([*without_data_dir, "--backbone", "digits-vit", "--k", "3"]) == 2
    assert "dataset fingerprint differs" in capsys.readouterr().err


@pytest.mark.slow
def test_moved_data_are_the_same_data(flags, tmp_path, capsys):
    assert EXTRACT([*flags, "--device", "cpu"]) == 0
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "data", moved, copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "data")
    capsys.readouterr()
    flags_of_moved_data = [*flags[:3], str(moved)]  # up to --data-dir and its value
    assert EXTRACT([*flags_of_moved_data, *flags[4:], "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("kept") == 2
    assert EXTRACT([*flags_of_moved_data, "--root", str(tmp_path / "other"), "--device", "cpu"]) == 0
    assert_same_files(tmp_path / "features", tmp_path / "other")
