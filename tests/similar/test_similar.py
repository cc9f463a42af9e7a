"""Similar pictures: the index, a query without a model, and the page, which needs no other files."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import fungi.wrapper as wrapper_module
from fungi.commands import COMMANDS
from fungi.config import KLConfig
from fungi.errors import FungiError
from fungi.library import collection
from fungi.similar import features
from fungi.similar.index import Index, nearest, pictures_below
from fungi.similar.page import Answer, page
from fungi.similar.settings import SimilarSettings
from fungi.views.image_sets import as_samples
from tests.library.models import wrap
from tests.store.flips import detected_flips


def paint(path: Path, colour: tuple[int, int, int], seed: int = 0) -> Path:
    """Write a picture of one colour with some noise, and return its path."""
    noise = np.random.default_rng(seed).integers(-20, 20, (40, 50, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write three dark and three bright pictures, the latter in a subfolder, and a text file. Return the folder."""
    for number in range(3):
        paint(tmp_path / "pictures" / f"dark-{number}.png", (30, 30, 30), number)
    for number in range(3):
        paint(tmp_path / "pictures" / "more" / f"bright-{number}.jpg", (220, 220, 220), number)
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    return tmp_path / "pictures"


def test_neighbours_equal_those_of_a_loop() -> None:
    random = np.random.default_rng(0)
    query, keys = random.normal(size=(1, 5)).astype(np.float32), random.normal(size=(20, 5)).astype(np.float32)
    cosines = [float(query[0] @ key / np.linalg.norm(query) / np.linalg.norm(key)) for key in keys]
    expected = sorted(range(20), key=lambda row: -cosines[row])[:4]
    neighbours = nearest(query, keys, 4)
    assert [row for row, _ in neighbours] == expected
    np.testing.assert_allclose([score for _, score in neighbours], [cosines[row] for row in expected], rtol=1e-5)


def test_changed_files_are_indexed_again(folder: Path, tmp_path: Path) -> None:
    pictures = pictures_below(folder)
    assert len(pictures) == 6
    widths = {"embeddings": 2, "gradients": 2}
    random = np.random.default_rng(0)
    first = Index.read(tmp_path / "index").joined(pictures, random.random((6, 4), dtype=np.float32), widths)
    first.write(tmp_path / "index")
    index = Index.read(tmp_path / "index")
    assert index.missing(pictures) == []
    assert np.array_equal(index.rows(pictures[2:3], index.columns["embeddings"]), first.features[2:3, :2])
    os.utime(pictures[2], ns=(1, 1))
    assert index.missing(pictures) == [pictures[2]]
    newer = index.joined([pictures[2]], np.ones((1, 4), np.float32), widths)
    assert newer.rows(pictures[2:3], slice(None)).tolist() == [[1, 1, 1, 1]]
    assert np.array_equal(newer.rows(pictures[:2], slice(None)), first.features[:2])
    other_widths = {"embeddings": 1, "gradients": 2}
    other_features = newer.joined([pictures[0]], np.ones((1, 3), np.float32), other_widths)
    assert other_features.missing(pictures) == pictures[1:]


def test_the_message_names_a_damaged_index(tmp_path: Path) -> None:
    (tmp_path / "index.safetensors").write_bytes(b"nothing")
    with pytest.raises(FungiError, match=r"index.safetensors is damaged .*Move it away"):
        Index.read(tmp_path)


def test_flipped_bits_of_an_index_are_detected(folder: Path, tmp_path: Path) -> None:
    pictures = pictures_below(folder)
    index = Index.read(tmp_path / "index").joined(
        pictures, np.arange(24, dtype=np.float32).reshape(6, 4), {"embeddings": 4}
    )
    index.write(tmp_path / "index")

    def content() -> list[object]:
        stored = Index.read(tmp_path / "index")
        return [stored.features.tobytes(), stored.parts, stored.states]

    assert detected_flips(tmp_path / "index" / "index.safetensors", content, count=200) == 200


def test_an_index_without_a_checksum_is_refused(tmp_path: Path) -> None:
    state = json.dumps({"parts": {"e": 2}, "files": {"/a.png": [0, 1, 2]}})
    save_file({"features": np.ones((1, 2), np.float32)}, tmp_path / "index.safetensors", metadata={"state": state})
    with pytest.raises(FungiError, match=r"damaged .it has no checksum.* Move it away, and run .* again to rebuild it"):
        Index.read(tmp_path)


def test_the_page_contains_its_pictures_and_marks_the_differences(folder: Path) -> None:
    pictures = pictures_below(folder)
    with_special_name = paint(folder / "<b>&.png", (0, 0, 0)).resolve()
    neighbours = {
        "embeddings": [(pictures[1], 0.9), (pictures[2], 0.8)],
        "FUNGI": [(pictures[1], 0.7), (with_special_name, 0.6)],
    }
    text = page([Answer(pictures[0], neighbours)], folder, "digits-vit", ("kl", "dino"))
    assert "Both features retrieve 1 of the 2 nearest pictures" in text
    assert text.count("only here") == 2
    assert "By FUNGI (embeddings, gradients of KL, DINO)" in text
    assert "&lt;b&gt;&amp;.png" in text
    assert "<b>&.png" not in text
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r"src='([^']*)'", text))
    assert not re.search(r"https?:|<script|<link|url\(", text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--query", "nowhere.png"], "--query nowhere.png does not exist. Name a picture"),
        (["--images", "nowhere"], "--images nowhere is not a folder. Name the folder"),
        (["--query", "notes.txt"], "can't read notes.txt (no known image format)"),
        (["--objective", "simclir"], "unknown objective 'simclir'. Did you mean 'simclr'"),
        (["--backbone", "tiny-bert"], "backbone 'tiny-bert' takes text, not pictures"),
    ],
)
def test_the_message_names_the_invalid_input(change, message, folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    valid = ["--images", str(folder), "--query", str(folder / "dark-0.png"), "--root", str(tmp_path / "features")]
    assert COMMANDS["similar"].main([*valid, *change]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("device", "expected"), [("cuda", (3, True)), ("cpu", (0, False))])
def test_worker_processes_decode_the_pictures_for_a_gpu(
    device: str, expected: tuple[int, bool], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is only a name here: the loader is a stand-in that records its arguments."""
    loaders: list[tuple[int, bool]] = []

    def loader(*_: object, num_workers: int, pin_memory: bool, **__: object) -> list[object]:
        loaders.append((num_workers, pin_memory))
        return []

    wrapper = wrap(configs=[KLConfig(latent_dim=24)])
    wrapper.device = torch.device(device)
    monkeypatch.setattr(features, "_wrapper", lambda settings, pictures: wrapper)
    monkeypatch.setattr(wrapper_module, "batches", loader)
    monkeypatch.setattr(wrapper_module, "progress", lambda loaded, *_, **__: loaded)
    monkeypatch.setattr(collection, "usable_cores", lambda: 8)
    settings = SimilarSettings(images=folder, query=(folder / "dark-0.png",), batch_size=2)
    pictures = pictures_below(folder)
    assert list(features.compute_features(settings, pictures, pictures)) == []
    assert loaders == [expected]  # six pictures are three batches: more processes would have nothing to do


def test_pictures_of_worker_processes_give_the_same_features(folder: Path) -> None:
    pictures = as_samples(features._Pictures(pictures_below(folder)))
    wrapper = wrap(configs=[KLConfig(latent_dim=24)])
    of_one_process, of_workers = (list(wrapper.batches(pictures, 2, num_workers)) for num_workers in (0, 2))
    for actual, expected in zip(of_workers, of_one_process, strict=True):
        np.testing.assert_array_equal(actual.numpy(), expected.numpy())


@pytest.mark.slow
def test_a_second_query_needs_no_model_and_only_new_pictures_are_indexed(folder, tmp_path, capsys, monkeypatch) -> None:
    output = tmp_path / "page.html"
    common = ["--images", str(folder), "--backbone", "digits-vit", "--root", str(tmp_path / "features")]
    common += ["--neighbours", "2", "--output", str(output)]
    assert COMMANDS["similar"].main([*common, "--query", str(folder / "dark-0.png")]) == 0
    assert "6 pictures; added to the index: 6\n" in capsys.readouterr().out
    dark = re.findall(r"<figcaption>(\S+) ", output.read_text())
    assert set(dark) == {"dark-1.png", "dark-2.png"}

    monkeypatch.setitem(sys.modules, "fungi.similar.features", None)  # an import of this module fails now
    assert COMMANDS["similar"].main([*common, "--query", str(folder / "more" / "bright-1.jpg")]) == 0
    assert "6 pictures; added to the index: 0\n" in capsys.readouterr().out
    assert set(re.findall(r"<figcaption>(\S+) ", output.read_text())) == {"more/bright-0.jpg", "more/bright-2.jpg"}
    monkeypatch.undo()

    unreadable = folder / "unreadable.png"
    unreadable.write_bytes(b"not a picture")
    assert COMMANDS["similar"].main([*common, "--query", str(folder / "dark-0.png")]) == 0
    captured = capsys.readouterr()
    assert "left out: sample 'unreadable.png': can't read" in captured.err
    assert "6 pictures; added to the index: 0\n" in captured.out
    unreadable.unlink()

    outside = paint(tmp_path / "elsewhere.png", (225, 225, 225), 9)
    assert COMMANDS["similar"].main([*common, "--query", str(outside)]) == 0
    assert "6 pictures; added to the index: 1\n" in capsys.readouterr().out
    assert all(name.startswith("more/bright") for name in re.findall(r"<figcaption>(\S+) ", output.read_text()))
