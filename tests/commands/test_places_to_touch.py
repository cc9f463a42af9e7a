"""A new command or evaluator needs only its file and its row in the table of commands, a new backbone only its file."""

import json
from pathlib import Path

import pytest

from fungi.cli.main import main as fungi
from fungi.commands import COMMANDS, Command
from fungi.grid.calls import call_of, command_line
from fungi.grid.declaration import Grid
from fungi.grid.elements import elements_of
from tests.evaluation.feature_folder import make_folder

EVALUATOR = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fungi.combine.names import nested_chain
from fungi.scoring.evaluation_loop import evaluate
from fungi.scoring.feature_settings import FeatureSettings
from fungi.settings import setting

DESCRIPTION = """Return the accuracy of the most frequent label."""


@dataclass(frozen=True, kw_only=True)
class MajoritySettings(FeatureSettings):
    task: ClassVar[str] = "majority"
    bonus: float = setting(0.0, "added to every score")


class MajorityScorer:
    def __init__(self, settings, task):
        self.settings, self.test_targets = settings, task.splits["test"].targets()
        self.sources = [task.splits["test"].source(settings)]
        self.most_frequent = np.bincount(task.splits["train"].targets()).argmax()

    def score(self, features):
        return {"accuracy": float((self.test_targets == self.most_frequent).mean()) + self.settings.bonus}

    def warnings(self):
        return []


def run(settings: MajoritySettings):
    return evaluate(
        settings,
        combinations=nested_chain,
        prepare=lambda task: MajorityScorer(settings, task),
    )


def show(settings: MajoritySettings, content) -> None:
    print("majority:", content["results"]["embeddings"]["accuracy"])
'''
COMMAND = """
from dataclasses import dataclass

from fungi.errors import FungiError
from fungi.settings import setting

DESCRIPTION = "Say hello."


@dataclass(frozen=True, kw_only=True)
class HelloSettings:
    name: str = setting("world", "who is greeted")


def run(settings: HelloSettings) -> None:
    if not settings.name:
        raise FungiError("nobody is there. Name somebody with --name.")
    print(f"hello {settings.name}")
"""


@pytest.fixture
def add_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that adds the file of a command, and its row in the table of commands."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(row: Command, code: str) -> None:
        (tmp_path / f"{row.module}.py").write_text(code)
        monkeypatch.setitem(COMMANDS, row.name, row)

    return add


def test_a_new_command_needs_only_its_file_and_its_row(add_command, capsys: pytest.CaptureFixture[str]) -> None:
    add_command(Command("hello", "toy_hello", "Evaluation", "say hello"), COMMAND)
    assert fungi(["hello", "--name", "you"]) == 0
    assert capsys.readouterr().out == "hello you\n"
    assert fungi(["hello", "--name", ""]) == 2
    assert capsys.readouterr().err == "fungi hello: nobody is there. Name somebody with --name.\n"
    with pytest.raises(SystemExit):
        fungi(["hello", "--help"])
    assert "who is greeted (default: world)" in capsys.readouterr().out
    fungi(["list", "commands"])
    fungi([])
    assert capsys.readouterr().out.count("say hello") == 2


def test_the_grid_can_run_a_new_evaluator_that_has_only_its_file_and_its_row(
    add_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Command("majority", "toy_majority", "Evaluation", "the most frequent label", stage="evaluation")
    add_command(row, EVALUATOR)
    root = tmp_path / "features"
    make_folder(root, rows={"train": 9, "test": 8}, classes=4)

    grid = Grid(root=root, datasets=("digits", "oxford-landmarks"), flags={"majority": "--bonus 1.0"})
    call = call_of(["majority"], grid)
    (element,) = elements_of(grid, call)  # none for the landmarks, because they have no labels
    flags = command_line(element, call, grid)
    assert flags[:2] == ["--bonus", "1.0"]
    (result,) = COMMANDS["majority"].parse(flags).outputs()

    monkeypatch.setenv("FUNGI_ROOT", str(root))
    monkeypatch.setenv("FUNGI_FLAGS_MAJORITY", "--bonus 1.0")
    assert fungi(["run-elements", "majority"]) == 0
    # A quarter of the test rows has the most frequent label, and the bonus is 1.
    assert json.loads(result.read_text())["results"]["embeddings"]["accuracy"] == 1.25
    assert "majority: 1.25" in capsys.readouterr().out


BACKBONE = """
from functools import partial

from fungi.backbones.base import register_backbone
from fungi.backbones.timm_models import build_timm
from fungi.views.image import HALF, ImageInput

register_backbone(
    name="toy-vit",
    label="toy",
    source="nowhere",
    embedding_dim=64,
    projection_dim=64,
    layer="blocks.5.attn.proj",
    weight_shape=(64, 64),
    pca_dim=64,
    depth=6,
    patch_size=16,
    input=ImageInput(size=160, resize=160, statistics=HALF),
    build=partial(build_timm, "test_vit", num_classes=0),
)
"""


def test_the_stages_the_library_and_the_grid_use_a_new_backbone_that_has_only_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from fungi.backbones import families
    from fungi.backbones.base import BACKBONES
    from fungi.backbones.loading import load_backbone
    from fungi.config import KLConfig
    from fungi.grid.throughput import relative_work
    from fungi.wrapper import FUNGIWrapper

    (tmp_path / "toy.py").write_text(BACKBONE)
    BACKBONES.names()
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    monkeypatch.setattr(BACKBONES, "_discovered", False)

    assert fungi(["list", "backbones"]) == 0
    assert "toy-vit" in capsys.readouterr().out
    backbone = load_backbone("toy-vit", random_init=True)
    assert 0 < relative_work(backbone.spec) < 0.01
    options = {"input_dim": 160, "image_input": backbone.input, "extractor_configs": [KLConfig(latent_dim=8)]}
    wrapper = FUNGIWrapper(backbone.model, backbone.spec.layer, "cpu", **options)
    assert wrapper([Image.new("RGB", (200, 160))]).shape == (1, 64)
    flags = ["--backbone", "toy-vit", "--random-init", "--root", str(tmp_path / "features"), "--split", "test"]
    assert COMMANDS["extract"].parse([*flags, "--dataset", "digits"]).backbone == "toy-vit"
