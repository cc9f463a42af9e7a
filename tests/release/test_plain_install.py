"""Every evaluation works in an installation without extras: their packages can't be imported here."""

import os
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture
def fungi(tmp_path: Path):
    """Run a command in a Python that has no extras."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCK)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run(
            [sys.executable, "-m", "fungi", *arguments],
            env=os.environ | {"PYTHONPATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_block_blocks(fungi, tmp_path: Path) -> None:
    make_folder(tmp_path / "features", features=("embeddings",))
    for library, status in (("faiss", 2), ("scann", 2), ("exact", 0)):
        assert fungi("knn", "--search", library).returncode == status


@pytest.mark.slow
@pytest.mark.parametrize("command", ["linear", "cluster", "analyse"])
def test_every_evaluation_runs_without_extras(command, fungi, tmp_path: Path) -> None:
    make_folder(tmp_path / "features", features=("embeddings", "kl"))
    ended = fungi(command)
    assert ended.returncode == 0, ended.stderr
    said = "cyanure is not installed: lbfgs fits the logistic regression"
    assert ended.stderr.count(said) == (command == "linear")


@pytest.mark.slow
def test_the_solver_that_was_used_is_part_of_the_result(fungi, tmp_path: Path) -> None:
    import json

    make_folder(tmp_path / "features", features=("embeddings",))
    assert fungi("linear").returncode == 0
    content = json.loads((tmp_path / "features/results/linear-lbfgs/digits/digits-vit.json").read_text())
    assert content["settings"]["solver"] == content["unusual"]["solver"] == "lbfgs"
    assert content["results"]["embeddings"]["fit"]["solver"] == "lbfgs"
