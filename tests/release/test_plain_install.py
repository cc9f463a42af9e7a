"""Every evaluation works without the packages of extras. The commands run in a Python that cannot import them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.evaluation.feature_folder import make_folder

# The module `sitecustomize`, which Python imports when it starts.
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
# A program that runs each of its arguments as a command of `fungi`, and prints status and errors as JSON.
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
SEARCHES = {"knn --search faiss": 2, "knn --search scann": 2, "knn --search exact": 0}
"""Command -> its exit status."""
EVALUATIONS = ("linear", "cluster", "analyse")


class Outcome(NamedTuple):
    status: int
    errors: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain")


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Outcome]:
    """Return the outcome of each command. A single process runs them all, because imports take most of the time."""
    make_folder(folder / "features", features=("embeddings", "kl"))
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(BLOCK)
    path = os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.run(
        [sys.executable, "-c", RUN, *SEARCHES, *EVALUATIONS],
        env=os.environ | {"PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    lines = [json.loads(line) for line in process.stderr.splitlines() if line.startswith("[")]
    return {command: Outcome(status, errors) for command, status, errors in lines}


@pytest.mark.slow
def test_packages_of_extras_cannot_be_imported(outcomes: dict[str, Outcome]) -> None:
    assert {command: outcomes[command].status for command in SEARCHES} == SEARCHES


@pytest.mark.slow
@pytest.mark.parametrize("command", EVALUATIONS)
def test_every_evaluation_runs_without_extras(command: str, outcomes: dict[str, Outcome]) -> None:
    status, errors = outcomes[command]
    assert status == 0, errors
    message = "cyanure is not installed: lbfgs fits the logistic regression"
    assert errors.count(message) == (command == "linear")


@pytest.mark.slow
def test_the_result_records_its_solver(outcomes: dict[str, Outcome], folder: Path) -> None:
    assert outcomes["linear"].status == 0
    content = json.loads((folder / "features/results/linear-lbfgs/digits/digits-vit.json").read_text())
    assert content["settings"]["solver"] == content["unusual"]["solver"] == "lbfgs"
    assert content["results"]["embeddings"]["fit"]["solver"] == "lbfgs"
