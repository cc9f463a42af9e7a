"""`fungi prefetch` downloads and verifies the data and weights of the grid, and lists those that are not ready."""

from dataclasses import replace
from pathlib import Path

import pytest

from fungi.backbones.base import BACKBONES
from fungi.commands import COMMANDS
from fungi.data.base import DATASETS
from fungi.data.sets.digits import split_rows
from fungi.errors import MissingFilesError
from fungi.registry import Registry


def register(monkeypatch: pytest.MonkeyPatch, registry: Registry, name: str, entry: object) -> None:
    """Add an entry to a registry until the test ends."""
    registry.names()  # loads the entries
    monkeypatch.setitem(registry._entries, name, entry)


def test_weights_and_datasets_are_fetched_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched = []
    weights, digits = BACKBONES["digits-vit"], DATASETS["digits"]

    def pretrained():
        fetched.append("weights")
        return weights.pretrained()

    def download(data_dir: Path) -> None:
        fetched.append(data_dir)

    register(monkeypatch, BACKBONES, "fetched-vit", replace(weights, name="fetched-vit", pretrained=pretrained))
    register(monkeypatch, DATASETS, "fetched", replace(digits, name="fetched", download=download))
    arguments = ["--backbones", "fetched-vit", "--datasets", "fetched", "--data-dir", str(tmp_path)]
    assert COMMANDS["prefetch"].main([*arguments, "--root", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert fetched == ["weights", tmp_path]
    assert "fetched-vit: published weights" in output
    assert f"fetched train: {len(split_rows('train')):,} rows of 10 classes" in output


def test_prefetch_lists_everything_that_is_not_ready_and_fetches_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable() -> None:
        raise MissingFilesError("the weights of X are not on disk and can't be fetched (no network).")

    def download(data_dir: Path) -> None:
        raise OSError("[Errno -2] Name or service not known")

    weights, digits = BACKBONES["digits-vit"], DATASETS["digits"]
    register(monkeypatch, BACKBONES, "far-vit", replace(weights, name="far-vit", pretrained=unreachable))
    register(monkeypatch, DATASETS, "far", replace(digits, name="far", download=download))
    arguments = ["--backbones", "far-vit", "digits-vit", "--datasets", "far", "digits", "--root", str(tmp_path)]
    assert COMMANDS["prefetch"].main(arguments) == 2
    printed = capsys.readouterr()
    assert "digits-vit: published weights" in printed.out
    assert "digits test: 540 rows" in printed.out
    assert "2 weights or datasets of the grid are not ready" in printed.err
    assert "the weights of X are not on disk" in printed.err
    assert "dataset 'far' can't be downloaded ([Errno -2] Name or service not known)" in printed.err


def test_a_dataset_with_missing_rows_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = DATASETS["digits"]
    register(monkeypatch, DATASETS, "short", replace(digits, name="short", sizes={"train": 1257, "test": 541}))
    assert COMMANDS["prefetch"].main(["--no-weights", "--datasets", "short", "--root", str(tmp_path)]) == 2
    assert "split test has 540 rows, but the published split has 541" in capsys.readouterr().err


def test_prefetch_creates_no_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert COMMANDS["prefetch"].main([]) == 0
    assert "digits test: 540 rows" in capsys.readouterr().out
    assert not (tmp_path / "features").exists()
