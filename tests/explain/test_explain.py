"""The page of `fungi explain` shows exactly the samples that only one of two features classifies correctly."""

import json
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from fungi.commands import COMMANDS
from fungi.data.base import resolve_dataset
from fungi.explain.disagreements import compare
from fungi.scoring import knn_concat
from fungi.scoring.knn_concat import KnnSettings
from fungi.store.layout import Layout
from fungi.store.provenance import write_provenance
from tests.evaluation.feature_folder import PROVENANCE, make_folder

SHADES = ("dark", "light")


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """Return a kNN result of random features of pictures in class folders. The features depend weakly on the class."""
    root, data = tmp_path / "features", tmp_path / "pictures"
    make_folder(root, features=("embeddings", "kl"), rows={"train": 40, "test": 20}, classes=2, dim=3)
    for split, count in (("train", 20), ("test", 10)):
        for label, shade in enumerate(SHADES):
            (data / split / shade).mkdir(parents=True)
            for number in range(count):
                grey = 200 * label + number
                Image.new("RGB", (20, 10), (grey,) * 3).save(data / split / shade / f"{number:02d}.png")
    dataset = f"shades=folder:{data}"
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        samples = resolve_dataset(dataset, tmp_path).open_split(split, tmp_path)
        for feature, key in (("embeddings", "embeddings"), ("kl", "attn_proj")):
            with h5py.File(Layout(root).features(feature, "digits", "digits-vit", split), "r+") as file:
                values = generator.normal(size=file[key].shape)
                values[:, 0] += samples.targets * (2.0 if key == "attn_proj" else 0.3)
                file[key][:] = values
                if "targets" in file:
                    file["targets"][:] = samples.targets
                    file["sample_ids"], file["class_names"] = list(samples.ids), list(samples.class_names)
                settings = {"dataset": dataset, "data_dir": str(tmp_path)}
                provenance = replace(PROVENANCE, feature=feature, split=split, settings=settings, rows=len(values))
                write_provenance(file, replace(provenance, dataset_fingerprint=samples.fingerprint()))
    knn_concat.run(KnnSettings(root=(root,), k=5))
    (path,) = (root / "results").rglob("*.json")
    return path


def ids_on(page: str, section: int) -> list[str]:
    """Return the ids in a section of the page, without the split."""
    ids = re.findall(r"<code>(.*?)</code>", page.split("<section>")[section])
    return [sample_id.removeprefix("test/") for sample_id in ids]


def expected_ids(result: Path, feature: str, other_feature: str) -> list[str]:
    """Return the ids of the samples that `feature` classifies correctly, and `other_feature` wrongly."""
    content = json.loads(result.read_text())
    targets = np.array(content["test_targets"])
    correct, other_correct = (
        np.array(content["results"][name]["predictions"]) == targets for name in (feature, other_feature)
    )
    ids = [f"{shade}/{number:02d}.png" for shade in SHADES for number in range(10)]
    return [ids[row] for row in np.flatnonzero(correct & ~other_correct)]


def test_the_page_shows_the_samples_on_which_two_features_disagree(result: Path, capsys) -> None:
    assert COMMANDS["explain"].main([str(result), "--features", "embeddings", "kl"]) == 0
    page = result.with_suffix(".html").read_text()
    only_kl, only_embeddings = expected_ids(result, "kl", "embeddings"), expected_ids(result, "embeddings", "kl")
    assert only_kl
    assert ids_on(page, 1) == only_kl
    assert ids_on(page, 2) == only_embeddings
    assert page.count("<img") == len(only_kl) + len(only_embeddings)
    assert "http" not in page.replace("http-equiv", "")
    assert "dark" in page
    counts = f"correct only with kl: {len(only_kl)}; only with embeddings: {len(only_embeddings)}"
    assert counts in capsys.readouterr().out


def test_pictures_that_the_extraction_left_out_do_not_hide_the_others(result: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "test" / "dark" / "005.png").write_bytes(b"left out by --skip-damaged")
    Image.new("RGB", (20, 10)).save(tmp_path / "pictures" / "test" / "light" / "000.png")  # left out by --limit
    assert COMMANDS["explain"].main([str(result), "--features", "embeddings", "kl"]) == 0
    page = result.with_suffix(".html").read_text()
    differing = [*expected_ids(result, "kl", "embeddings"), *expected_ids(result, "embeddings", "kl")]
    assert page.count("<img") == len(differing)


@pytest.mark.parametrize("change", ["moved", "edited"])
def test_if_the_pictures_changed_the_samples_are_listed_by_id(
    change: str, result: Path, tmp_path: Path, capsys
) -> None:
    if change == "moved":
        (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    else:
        Image.new("RGB", (20, 10), (1, 2, 3)).save(tmp_path / "pictures" / "test" / "dark" / "00.png")
    assert COMMANDS["explain"].main([str(result), "--features", "embeddings", "kl"]) == 0
    page = result.with_suffix(".html").read_text()
    assert "<img" not in page
    assert ids_on(page, 1) == expected_ids(result, "kl", "embeddings")
    assert "samples are listed by id" in capsys.readouterr().err


def test_the_first_feature_and_the_largest_combination_are_compared_by_default(result: Path) -> None:
    content = json.loads(result.read_text())
    assert compare(content, result, ()).features == ("embeddings", "embeddings+kl")


# Name of a case -> arguments of the command, and a part of the error message.
INVALID_FLAGS = {
    "nothing": ([], "name the result file: fungi explain"),
    "one feature": (["RESULT", "--features", "kl"], "--features takes two features"),
    "unknown feature": (["RESULT", "--features", "kl", "dinos"], "unknown feature of"),
    "the same twice": (["RESULT", "--features", "kl", "kl"], "two different features"),
}


@pytest.mark.parametrize("name", INVALID_FLAGS)
def test_invalid_comparisons_are_refused(name: str, result: Path, capsys) -> None:
    flags, message = INVALID_FLAGS[name]
    assert COMMANDS["explain"].main([str(result) if flag == "RESULT" else flag for flag in flags]) == 2
    assert message in capsys.readouterr().err


def test_a_result_without_predictions_is_refused(result: Path, capsys) -> None:
    content = json.loads(result.read_text())
    content["results"] = {name: {"mIoU": 0.5} for name in content["results"]}
    del content["checksum"]
    result.write_text(json.dumps(content))
    assert COMMANDS["explain"].main([str(result)]) == 2
    assert "has no predictions of two features" in capsys.readouterr().err


def test_a_result_with_only_one_feature_and_a_missing_result_are_refused(result, tmp_path, capsys):
    content = json.loads(result.read_text())
    content["results"] = {"embeddings": content["results"]["embeddings"]}
    del content["checksum"]
    content.pop("runs", None)
    (tmp_path / "single.json").write_text(json.dumps(content))
    assert COMMANDS["explain"].main([str(tmp_path / "single.json")]) == 2
    assert "has only one feature (embeddings), but explain compares two" in capsys.readouterr().err
    assert COMMANDS["explain"].main([str(tmp_path / "absent.json")]) == 2
    assert "absent.json does not exist" in capsys.readouterr().err
