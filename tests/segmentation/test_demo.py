"""`fungi demo-segmentation` on few images: it prints the scores of its results, and its picture shows the classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fungi.commands import COMMANDS
from fungi.data.sets import digit_scenes
from fungi.demos import segmentation
from fungi.errors import FungiError


@pytest.mark.slow
def test_the_demo_prints_the_scores_and_draws_its_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in digit_scenes.SCENES:
        monkeypatch.setitem(digit_scenes.SCENES, split, 8)
    shown = sorted({int(digit_scenes.compose("test", number)[1].max()) for number in range(8)})[:2]
    monkeypatch.setattr(segmentation, "PICTURE_CLASSES", tuple(shown))
    monkeypatch.setattr(segmentation, "MEMORY_SIZE", 400)
    assert COMMANDS["demo-segmentation"].main(["--root", str(tmp_path), "--seeds", "1", "2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    paths = sorted((tmp_path).glob("seed-*/results/**/*.json"))
    assert len(paths) == 2
    results = [json.loads(path.read_text())["results"] for path in paths]
    for feature in ("embeddings", "embeddings+simclr"):
        by_class = np.mean([scores[feature]["IoU"] for scores in results], axis=0)
        assert [feature, *(f"{100 * value:.1f}" for value in by_class)] in lines
        mean = 100 * np.mean([scores[feature]["mIoU"] for scores in results])
        assert any(f"{mean:.1f}" in word for line in lines if feature in line for word in line)
    pixels = np.asarray(Image.open(tmp_path / "scenes.png").convert("RGB")).reshape(-1, 3)
    for name in (0, *shown):
        colour = [int(segmentation.PALETTE[name][start : start + 2], 16) for start in (1, 3, 5)]
        assert (pixels == colour).all(axis=1).sum() > 500  # the legend alone has fewer pixels


def test_equal_seeds_are_refused() -> None:
    with pytest.raises(FungiError, match="--seed takes one or more different numbers"):
        segmentation.DemoSegmentationSettings(seeds=(1, 1))
