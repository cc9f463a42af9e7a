"""Every evaluation works without the packages of extras: here, these packages can't be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.evaluation.feature_folder import make_folder

BLOCK = """
import sys
from importlib.abc import MetaPathFinder

EXTRAS = {"cyanure", "cyanure_lib", "faiss", "scann", "wandb"}


class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ImportError(f"No module named {name!r}")
        return None


sys.meta_path.insert(0, Block())
"""
RUN = """
import json, sys
from contextlib import redirect_stderr
from io import StringIO

from fungi.cli.main import main

for line in sys.argv[1:]:
    with redirect_stderr(StringIO()) as errors:
        status = main(line.split())
    print(json.dumps([line, status, errors.getvalue()]), file=sys.stderr)
"""
LIBRARIES = {"knn --search faiss": 2, "knn --search scann": 2, "knn --search exact": 0}
"""A command -> its exit status."""
EVALUATIONS = ("linear", "cluster", "analyse")


class Ended(NamedTuple):
    status: int
    errors: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain")


@pytest.fixture(scope="module")
def ended(folder: Path) -> dict[str, Ended]:
    """How each command ended in a Python without extras: one process for all, as importing takes most of the time."""
    make_folder(folder / "features", features=("embeddings", "kl"))
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(BLOCK)
    path = os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", RUN, *LIBRARIES, *EVALUATIONS],
        env=os.environ | {"PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    return {command: Ended(status, errors) for command, status, errors in lines}


@pytest.mark.slow
def test_packages_of_extras_can_not_be_imported(ended: dict[str, Ended]) -> None:
    assert {command: ended[command].status for command in LIBRARIES} == LIBRARIES


@pytest.mark.slow
@pytest.mark.parametrize("command", EVALUATIONS)
def test_every_evaluation_runs_without_extras(command: str, ended: dict[str, Ended]) -> None:
    status, errors = ended[command]
    assert status == 0, errors
    said = "cyanure is not installed: lbfgs fits the logistic regression"
    assert errors.count(said) == (command == "linear")


@pytest.mark.slow
def test_the_solver_that_was_used_is_part_of_the_result(ended: dict[str, Ended], folder: Path) -> None:
    assert ended["linear"].status == 0
    content = json.loads((folder / "features/results/linear-lbfgs/digits/digits-vit.json").read_text())
    assert content["settings"]["solver"] == content["unusual"]["solver"] == "lbfgs"
    assert content["results"]["embeddings"]["fit"]["solver"] == "lbfgs"
