"""The page shows exactly the samples on which two features disagree, by their ids, with their pictures or without."""

import json
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from fungi.commands import COMMANDS
from fungi.explain.disagreements import compare
from fungi.scoring import knn_concat
from fungi.scoring.knn_concat import KnnSettings
from fungi.store.provenance import write_provenance
from tests.evaluation.feature_folder import PROVENANCE, make_folder

SHADES = ("dark", "light")


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result of features of noise, of pictures in folders that are there."""
    from fungi.data.base import resolve_dataset

    root, data = tmp_path / "features", tmp_path / "pictures"
    make_folder(root, features=("embeddings", "kl"), rows={"train": 40, "test": 20}, classes=2, dim=3)
    for split, count in (("train", 20), ("test", 10)):
        for place, shade in enumerate(SHADES):
            (data / split / shade).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 10), (200 * place + number,) * 3).save(data / split / shade / f"{number:02d}.png")
    text = f"shades=folder:{data}"
    for split in ("train", "test"):
        samples = resolve_dataset(text, tmp_path).open_split(split, tmp_path)
        for feature, key in (("embeddings", "embeddings"), ("kl", "attn_proj")):
            path = root / ("embeddings" if key == feature else "gradients") / "digits" / "digits-vit"
            path = path / (f"{split}.h5" if key == feature else f"kl-{split}.h5")
            with h5py.File(path, "r+") as file:
                values = np.random.default_rng(len(split + key)).normal(size=file[key].shape)
                values[:, 0] += samples.targets * (2.0 if key == "attn_proj" else 0.3)
                file[key][:] = values
                if "targets" in file:
                    file["targets"][:] = samples.targets
                    file["sample_ids"], file["class_names"] = list(samples.ids), list(samples.class_names)
                settings = {"dataset": text, "data_dir": str(tmp_path)}
                record = replace(PROVENANCE, feature=feature, split=split, settings=settings, rows=len(values))
                write_provenance(file, replace(record, dataset_fingerprint=samples.fingerprint()))
    knn_concat.run(KnnSettings(root=(root,), k=5))
    (path,) = (root / "results").rglob("*.json")
    return path


def ids_on(page: str, section: int) -> list[str]:
    return re.findall(r"<code>(.*?)</code>", page.split("<section>")[section])


def expected_ids(result: Path, right: str, wrong: str) -> list[str]:
    content = json.loads(result.read_text())
    a, b = (np.array(content["results"][name]["predictions"]) for name in (right, wrong))
    targets = np.array(content["test_targets"])
    names = [f"{SHADES[row // 10]}/{row % 10:02d}.png" for row in range(20)]
    return [names[row] for row in np.flatnonzero((a == targets) & (b != targets))]


def test_the_page_shows_the_samples_on_which_two_features_disagree(result: Path, capsys) -> None:
    assert COMMANDS["explain"].main([str(result), "--features", "embeddings", "kl"]) == 0
    page = result.with_suffix(".html").read_text()
    gained, lost = expected_ids(result, "kl", "embeddings"), expected_ids(result, "embeddings", "kl")
    assert gained
    assert [name.removeprefix("test/") for name in ids_on(page, 1)] == gained
    assert [name.removeprefix("test/") for name in ids_on(page, 2)] == lost
    assert page.count("<img") == len(gained) + len(lost)
    assert "http" not in page.replace("http-equiv", "")
    assert "dark" in page
    assert f"correct only with kl: {len(gained)}; only with embeddings: {len(lost)}" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["gone", "other"])
def test_without_the_data_the_samples_are_listed_by_id(change: str, result: Path, tmp_path: Path, capsys) -> None:
    if change == "gone":
        (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    else:
        Image.new("RGB", (20, 10), (1, 2, 3)).save(tmp_path / "pictures" / "test" / "dark" / "00.png")
    assert COMMANDS["explain"].main([str(result), "--features", "embeddings", "kl"]) == 0
    page = result.with_suffix(".html").read_text()
    assert "<img" not in page
    assert [name.removeprefix("test/") for name in ids_on(page, 1)] == expected_ids(result, "kl", "embeddings")
    assert "samples are listed by id" in capsys.readouterr().err


def test_the_first_feature_and_the_largest_combination_are_compared_by_default(result: Path) -> None:
    content = json.loads(result.read_text())
    assert compare(content, result, ()).features == ("embeddings", "embeddings+kl")


REFUSED = {
    "nothing": ([], "name the result file: fungi explain"),
    "one feature": (["RESULT", "--features", "kl"], "--features takes two features"),
    "unknown feature": (["RESULT", "--features", "kl", "dinos"], "unknown feature of"),
    "the same twice": (["RESULT", "--features", "kl", "kl"], "two different features"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_comparisons_are_refused(name: str, result: Path, capsys) -> None:
    flags, message = REFUSED[name]
    assert COMMANDS["explain"].main([str(result) if flag == "RESULT" else flag for flag in flags]) == 2
    assert message in capsys.readouterr().err


def test_a_result_without_predictions_is_refused(result: Path, capsys) -> None:
    content = json.loads(result.read_text())
    content["results"] = {name: {"mIoU": 0.5} for name in content["results"]}
    del content["checksum"]
    result.write_text(json.dumps(content))
    assert COMMANDS["explain"].main([str(result)]) == 2
    assert "has no predictions of two features" in capsys.readouterr().err


def test_a_result_with_only_one_feature_has_its_own_error(result, tmp_path, capsys):
    content = json.loads(result.read_text())
    content["results"] = {"embeddings": content["results"]["embeddings"]}
    (tmp_path / "single.json").write_text(
        json.dumps({name: value for name, value in content.items() if name not in ("runs", "checksum")})
    )
    assert COMMANDS["explain"].main([str(tmp_path / "single.json")]) == 2
    assert "has only one feature (embeddings), but explain compares two" in capsys.readouterr().err
    assert COMMANDS["explain"].main([str(tmp_path / "absent.json")]) == 2
    assert "absent.json does not exist" in capsys.readouterr().err
