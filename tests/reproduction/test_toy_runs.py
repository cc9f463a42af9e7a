"""Every recipe runs in a small form: with miniature datasets, a tiny backbone and smaller settings.

All evaluations run. For some recipes, features are extracted, so that every command reads extracted features once. For
the other recipes, features are random. The ablations of tests/ablations also use extracted features.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fungi.commands import COMMANDS
from fungi.data.base import open_split
from fungi.reproduction.outcome import our_value, table_text
from fungi.reproduction.plan import Plan, Step, StepSettings, plan_of
from fungi.reproduction.recipe import Evaluation, Value, recipe_names, values_of
from fungi.reproduction.reproduce import run_step
from fungi.results.text import plus_minus
from tests.data.miniatures import miniatures
from tests.objectives.test_mae import save_miniature
from tests.reproduction.fabricated import replace_measurements, write_features
from tests.segmentation.own_masks import write_dataset
from tests.text.test_in_context import write_data

TINY_ABLATION = ("--rows", "24", "--k", "3", "--pca-dim", "8", "--seed", "42")
CLASSES, PER_CLASS = (0, 1, 2), {"train": 11, "test": 4}
EXTRACTED = ("prose-mae", "rebuttal-24", "rebuttal-28", "prose-in-context")
"""Recipes with extracted features, which kNN, retrieval, an ablation and a language model then score.

The prefix of a recipe says where its values were published: in a table of the response to the reviewers (`rebuttal`) or
in the text of this response (`prose`).
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepSettings]:
    """Write toy datasets (pictures, landmarks, scenes, texts) and a masked autoencoder, and return their settings."""
    data_dir = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("oxford-landmarks", "paris-landmarks"):
            miniatures()[name].make(data_dir, patch)
        for split, count in PER_CLASS.items():
            digits = open_split("digits", split, data_dir)
            for label in CLASSES:
                folder = data_dir / "pictures" / split / str(label)
                folder.mkdir(parents=True)
                for row in np.flatnonzero(digits.targets == label)[:count]:
                    picture = digits.load(int(row))
                    assert isinstance(picture, Image.Image)
                    picture.save(folder / f"{row}.png")
        write_dataset(data_dir / "scenes")
        write_data(data_dir, {"train": 4, "test": 2})
        save_miniature(data_dir / "autoencoder")
        yield StepSettings(tmp_path_factory.mktemp("reproduction"), data_dir, "clean", "cpu")


def toy(run: Evaluation, data_dir: Path) -> Evaluation:
    """Return an evaluation with a toy dataset, a toy backbone and smaller settings."""
    dataset, backbone, flags = f"toy=folder:{data_dir / 'pictures'}", "digits-vit", run.flags
    if "mae" in run.features:
        backbone = f"autoencoder=hf:{data_dir / 'autoencoder'}"
    if run.command == "retrieval":
        dataset = run.dataset
    elif run.command == "segment":
        dataset = f"toy=masks:{data_dir / 'scenes'}"
        flags = ("--train-images", "2") if "--train-images" in flags else ("--memory-size", "64")
        flags += ("--k", "4", "--input-size", "32")
    elif run.command == "ablate":
        flags += TINY_ABLATION
    elif run.command == "in-context":
        dataset, backbone, flags = "ag-news", "tiny-bert", (*flags, "--k", "2")
    elif run.command == "cluster":
        flags += ("--restarts", "1")
    elif run.command == "analyse":
        # Figure 6 has 3 to 6 shots. Here, each of these numbers is 2, so that all evaluations are
        # equal and `toy_values` keeps one of them.
        flags = (*("2" if flag in ("3", "4", "5", "6") else flag for flag in flags), "--k", "3")
    elif run.command == "knn":
        flags += ("--k", "3")
    else:
        flags += ("--max-epochs", "2", "--solver", "lbfgs")
    return replace(run, dataset=dataset, backbone=backbone, flags=flags, seeds=run.seeds[:2])


def toy_values(name: str, settings: StepSettings) -> list[Value]:
    """Return the values of a recipe with toy evaluations. Equal evaluations are kept once."""
    return [
        replace(value, evaluations=tuple(dict.fromkeys(toy(run, settings.data_dir) for run in value.evaluations)))
        for value in values_of(name)
    ]


def run_plan(plan: Plan, extract: Callable[[Step], None]) -> None:
    """Run all steps of a plan that are not done. extract: function that runs or replaces an extraction."""
    for step in plan.extractions:
        if not step.is_done:
            extract(step)
    for step in plan.evaluations:
        if not step.is_done:
            assert run_step(step) == 0, step
        if step.command == "in-context":
            answer_all(step.outputs[0].parents[3])
            assert run_step(step) == 0


def extract_step(step: Step) -> None:
    """Extract the features of a step with the real command. A masked autoencoder gets smaller patches."""
    flags = ("--set", "mae.patch_size=8") if "mae" in step.features else ()
    assert run_step(replace(step, flags=(*step.flags, *flags))) == 0


def answer_all(root: Path) -> None:
    """Write the answers of a language model that knows all labels."""
    for path in root.rglob("*.prompts.jsonl"):
        prompts = [json.loads(line) for line in path.read_text().splitlines()]
        answers = [json.dumps({"id": prompt["id"], "answer": prompt["label"]}) + "\n" for prompt in prompts]
        path.with_name(path.name.replace("prompts", "answers")).write_text("".join(answers))


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_the_commands_of_a_recipe_compute_all_its_values(
    name: str, settings: StepSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in EXTRACTED:
        settings = replace(settings, root=tmp_path)  # the other root may have random features of the same name
    values = toy_values(name, settings)
    plan = plan_of(values, settings)
    if name in EXTRACTED:
        assert plan.missing == (list(plan.extractions), list(plan.evaluations))
    else:
        replace_measurements(monkeypatch)  # ablations extract and score in one command: their scores are random
    run_plan(plan, extract_step if name in EXTRACTED else write_features)
    assert not any(plan.missing)
    our_values = {
        value: our_value(value, settings) for value in values if value.published is not None and not value.quoted
    }
    missing = [value for value, ours in our_values.items() if ours is None]
    assert not missing, missing[:2]
    table = table_text(values, settings)
    assert all(f" ({plus_minus(value.published, value.std)}) " in table for value in our_values)


def test_recipes_use_existing_commands() -> None:
    commands = {run.command for name in recipe_names() for value in values_of(name) for run in value.evaluations}
    assert commands <= set(COMMANDS)
