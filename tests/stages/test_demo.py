"""`fungi demo`: what `make demo` shows, and that a second run reuses it."""

import json
from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from fungi.demos import vision as demo
from tests.stages.conftest import arrays


def test_demo_extracts_every_seed_and_split_with_25_patches_per_image() -> None:
    jobs = demo._extractions(demo.DemoSettings(seeds=(1, 2)))
    assert [(job.split, job.seed) for job in jobs] == [(("train",), 1), (("train",), 2), (("test",), 1), (("test",), 2)]
    assert {job.set for job in jobs} == {("simclr.stride_scale=4",)}
    smaller = demo._extractions_of_smaller_views(demo.DemoSettings(seeds=(1, 2)))
    assert {(job.views, job.seed) for job in smaller} == {("native", 1), ("budget", 1)}


@pytest.mark.slow
def test_demo_shows_a_gain_and_a_second_run_keeps_the_features(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--root", str(tmp_path), "--seeds", "7", "--device", "cpu"]
    assert COMMANDS["demo"].main(flags) == 0
    first = capfd.readouterr().out
    features = arrays(tmp_path / "seed-7")
    assert (
        len([name for name in features if not name.endswith((":sample_ids", ":class_names"))]) == 10
    )  # two splits of embeddings, labels and three gradients
    assert COMMANDS["demo"].main(flags) == 0
    second = capfd.readouterr().out

    assert "made before in the same way" not in first
    assert second.count("made before in the same way") == 24  # feature files, of three plans of views
    (result,) = (tmp_path / "seed-7").glob("results/knn/digits/*.json")
    scores = {name: found["accuracy"] for name, found in json.loads(result.read_text())["results"].items()}
    assert scores["embeddings+kl+dino+simclr"] > scores["embeddings"] + 0.03  # three seeds gave +6.7 on average
    table = first[first.index("accuracy, %") : first.index("features ")]
    assert table in second
    assert (tmp_path / "report" / "report.md").is_file()
    assert (tmp_path / "neighbours.png").is_file()
