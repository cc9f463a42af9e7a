"""`fungi demo-udi` runs all its steps, here on few images."""

from pathlib import Path

import pytest
from PIL import Image

from fungi.commands import COMMANDS
from fungi.data.base import open_split
from fungi.demos import pretraining as demo


@pytest.fixture
def few_textures(tmp_path: Path) -> str:
    """Write 64 train and 16 test images of the demo's dataset, and return their name for `--dataset`."""
    for split, count in (("train", 64), ("test", 16)):
        samples = open_split("patterns", split, tmp_path)
        for row in range(count):
            folder = tmp_path / "few" / split / f"class-{samples.targets[row]}"
            folder.mkdir(parents=True, exist_ok=True)
            samples.load(row).save(folder / f"{row:03d}.png")
    return f"few=folder:{tmp_path / 'few'}"


@pytest.mark.slow
def test_the_demo_writes_a_backbone_scores_and_figures_and_a_second_run_reuses_them(
    few_textures, tmp_path, monkeypatch, capfd
) -> None:
    for name, value in {"DATASET": few_textures, "BANK": 16, "NEIGHBOURS": 3}.items():
        monkeypatch.setattr(demo, name, value)
    root = tmp_path / "demo"
    flags = ["--root", str(root), "--epochs", "2", "--device", "cpu"]
    assert COMMANDS["demo-udi"].main(flags) == 0
    first = capfd.readouterr().out
    table = first[first.index("| | cls | cls+") : first.index("checkpoint  ")]
    for row in ("| random init |", "| teacher |", "| pixels |", "embeddings+kl+dino+simclr"):
        assert row in table, row
    for path, width in ((root / "loss.png", 400), (root / "attention.png", 800)):
        with Image.open(path) as picture:
            assert picture.width > width
            assert len(picture.convert("L").getcolors() or []) > 2  # the picture is not blank
    assert len((root / "pretraining" / "log.txt").read_text().splitlines()) == 2
    assert COMMANDS["demo-udi"].main(flags) == 0
    second = capfd.readouterr().out
    assert table in second
    assert "already computed in the same way" in second
