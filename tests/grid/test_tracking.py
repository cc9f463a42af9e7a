"""With `--wandb`, a command logs numbers to an offline run. Without the flag, it logs nothing."""

import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from fungi.errors import FungiError
from fungi.runtime.tracking import RowRate, track, tracked
from tests.evaluation.feature_folder import make_folder


@dataclass(frozen=True)
class Settings:
    root: Path
    wandb: bool = True
    dataset: str = "digits"
    backbone: str = "digits-vit"


class FakeWandb(types.ModuleType):
    """A fake of wandb that records all calls."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: dict = {}
        self.logged: list[dict] = []
        self.finished = False

    def init(self, **options):
        self.started = options
        return self

    def log(self, values) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return fake


def test_numbers_reach_an_offline_run(wandb: FakeWandb, tmp_path: Path) -> None:
    with tracked(Settings(tmp_path), "knn_concat.py"):
        track({"kl/accuracy": 0.5, "kl/predictions": [1, 2], "kl/note": "x"})
        RowRate("train").add(64)
    assert wandb.started["mode"] == "offline"
    assert wandb.started["dir"] == str(tmp_path)
    assert wandb.started["name"] == "knn_concat digits-vit digits"
    assert wandb.started["config"]["dataset"] == "digits"
    assert wandb.logged[0] == {"kl/accuracy": 0.5}
    assert wandb.logged[1]["train/rows"] == 64
    assert wandb.logged[1]["train/rows_per_second"] > 0
    assert wandb.finished


def test_the_mode_in_the_environment_is_used(wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with tracked(Settings(tmp_path), "x"):
        pass
    assert wandb.started["mode"] is None


def test_without_the_flag_nothing_is_started(wandb: FakeWandb, tmp_path: Path) -> None:
    with tracked(Settings(tmp_path, wandb=False), "x"):
        track({"a": 1})
    assert (wandb.started, wandb.logged) == ({}, [])


def test_only_the_first_of_several_processes_has_a_run(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with tracked(Settings(tmp_path), "x"):
        track({"a": 1})
    assert (wandb.started, wandb.logged) == ({}, [])


def test_a_failed_command_ends_its_run(wandb: FakeWandb, tmp_path: Path) -> None:
    with pytest.raises(FungiError), tracked(Settings(tmp_path), "x"):
        raise FungiError("no")
    assert wandb.finished


def test_the_message_about_a_missing_wandb_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(FungiError, match="pip install wandb"), tracked(Settings(tmp_path), "x"):
        pass


@pytest.mark.parametrize("failing_method", ["init", "log", "finish"])
def test_a_failed_log_does_not_stop_the_command(
    wandb: FakeWandb,
    failing_method: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("api_key not configured (no-tty).\nMore lines.")

    monkeypatch.setattr(wandb, failing_method, fail)
    steps = []
    with tracked(Settings(tmp_path), "knn_concat.py"):
        for step in range(3):
            track({"step": step})
            steps.append(step)
    assert steps == [0, 1, 2]
    warnings = [record.message for record in caplog.records if "Weights & Biases failed" in record.message]
    assert len(warnings) == 1
    assert "(api_key not configured (no-tty).): the command goes on without it" in warnings[0]


@pytest.mark.slow
def test_the_real_package_writes_the_results_of_a_command_to_an_offline_run(tmp_path: Path) -> None:
    """An offline run needs no account and no network."""
    make_folder(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-m", "fungi", "knn", "--root", str(tmp_path), "--combinations", "nested", "--wandb"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (result,) = (tmp_path / "results").rglob("digits-vit.json")
    (run_file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    logged = run_file.read_bytes()
    for name, scores in json.loads(result.read_text())["results"].items():
        assert f"{name}/accuracy".encode() in logged
        assert json.dumps(scores["accuracy"]).encode() in logged
