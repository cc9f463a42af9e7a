"""The study of views refuses impossible options before it extracts, and counts the forward passes of all options."""

import argparse
import sys
from pathlib import Path

import pytest

from fungi.errors import FungiError

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from study import extraction, tables
from study.scores import SCORES, feature_folder
from study.settings import KL, SETTINGS


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    """Return the default options of the script, with one seed and a folder of the test."""
    defaults = {"dataset": "digits", "backbone": "digits-vit", "checkpoint": None, "input_size": 0, "rows": (0, 0)}
    return argparse.Namespace(**defaults, root=tmp_path, seeds=[42], only=(), set=())


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the settings that the study would extract. Nothing is extracted and scored."""
    names: list[str] = []
    monkeypatch.setattr(extraction, "_extract", lambda options, dataset, setting, *_: names.append(setting.name))
    monkeypatch.setattr(extraction, "score", lambda *_: None)
    return names


def test_embeddings_are_required_before_the_extraction(options: argparse.Namespace, extracted: list[str]) -> None:
    options.only = ["2 + 10 crops, full size"]
    with pytest.raises(FungiError, match=r"the embeddings of seed 42 are missing. Add KL to --only"):
        extraction.run(options)
    assert extracted == []
    place = feature_folder(options.root / "digits-digits-vit", 42, KL)
    place.mkdir(parents=True)
    (place / "done.json").touch()
    extraction.run(options)
    options.only = [KL.name]
    extraction.run(options)
    assert extracted == ["2 + 10 crops, full size", "KL"]


def test_unknown_settings_are_refused(options: argparse.Namespace, extracted: list[str]) -> None:
    options.only = ["KL", "99 patches"]
    with pytest.raises(FungiError, match=r"there is no setting '99 patches'. There are: KL; "):
        extraction.run(options)
    assert extracted == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("rows", (8, 8)), ("checkpoint", Path("other.pth")), ("input_size", 64), ("set", ["dino.local_crops=4"])],
)
def test_features_of_other_options_are_not_reused(
    name: str, value: object, options: argparse.Namespace, extracted: list[str]
) -> None:
    extraction.run(options)
    count = len(extracted)
    setattr(options, name, value)
    with pytest.raises(FungiError, match=rf"has features with --{name.replace('_', '-')} .*Choose another --root"):
        extraction.run(options)
    assert len(extracted) == count > 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((8, 0), "--rows 8 0: use at least one train row and one test row"),
        ((0, 8), "--rows 0 8: use at least one train row and one test row"),
        ((8, 10_000), "--rows 10000: the split test has only 540 rows"),
    ],
)
def test_a_split_without_rows_or_with_too_few_rows_is_refused(
    rows: tuple[int, int], message: str, options: argparse.Namespace, extracted: list[str]
) -> None:
    options.rows = rows
    with pytest.raises(FungiError, match=message):
        extraction.run(options)
    assert extracted == []
    assert not list(options.root.iterdir())


def test_common_options_are_counted_in_the_forward_passes(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DINO with two global and four local crops of full size costs six forward passes instead of twelve."""
    from fungi.extraction import extract_gradients

    (setting,) = (setting for setting in SETTINGS["vision"] if setting.name == "2 + 10 crops, full size")
    monkeypatch.setattr(extract_gradients, "run", lambda settings: settings.root.mkdir(parents=True))
    for common_options, forwards in (((), 12), (("dino.local_crops=4", "simclr.grid=3"), 6)):
        options.set = common_options
        folder = options.root / str(forwards)
        extraction._extract(options, "digits", setting, 42, folder, ())
        text = (feature_folder(folder, 42, setting) / "done.json").read_text(encoding="utf-8")
        assert f'"forwards": {forwards}' in text


def test_the_deviation_over_seeds_is_that_of_reports() -> None:
    """Reports print the population deviation (`fungi.results.result_file.summary_of_runs`)."""
    from fungi.results.result_file import summary_of_runs

    accuracies = [0.5, 0.75, 0.7]
    spread = tables._spread([{"scores": dict.fromkeys(SCORES, value)} for value in accuracies], "scores")
    summary = summary_of_runs([{"kl": {"accuracy": value}} for value in accuracies])["kl"]
    assert spread["kNN"] == pytest.approx((summary["accuracy"], summary["accuracy-std"]))
    assert tables._spread([{"scores": dict.fromkeys(SCORES, 0.5)}], "scores")["kNN"] == (0.5, 0.0)
