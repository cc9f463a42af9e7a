"""A kill at any moment loses at most the current block, and the same command then writes the same data.

`scripts/kill_test.py` checks this at random moments. Here, the script kills a few times, always before the same file
operations.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.errors import FungiError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "kill_test.py"


@pytest.mark.slow
def test_kills_before_file_operations_do_not_change_the_files():
    stages = ("gradients-simclr", "merge", "knn", "segment")
    process = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "12", "--moments", "spaced", "--stages", *stages],
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.splitlines()[-1] == "12 kills, 0 losses"
    assert process.stdout.count(" 3 kills") == 4  # four stages
    assert "did not remove" not in process.stdout  # no orphans


@pytest.fixture(scope="module")
def kill_test():
    """Return the script as a module."""
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("kill_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    sys.path.remove(str(SCRIPT.parent))


def test_the_message_about_a_failed_stage_has_its_exit_status(kill_test, tmp_path):
    command = ["extract", "--root", "ROOT", "--dataset", "unknown"]
    with pytest.raises(FungiError, match="ended with status 2 without being killed"):
        kill_test.run_to_end(command, tmp_path / "work")


def _write_files(root: Path) -> None:
    """Write a feature file, a block, a result and a projection matrix."""
    for name, text in (
        ("gradients/d/b/kl-train.h5", None),
        ("blocks/gradients/d/b/dino-train/key/000000.safetensors", "block"),
        ("results/knn/d/b.json", '{"results": {"kl": {"accuracy": 0.5}, "dino": {"accuracy": 0.7}}}'),
        ("projections/m.pth", "matrix"),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            with h5py.File(path, "w") as file:
                file["attn"] = np.arange(6.0)
        else:
            path.write_text(text)


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda root: (root / "projections/m.pth").write_text("other"), "projections/m.pth"),
        (lambda root: (root / "gradients/d/b/kl-train.h5").unlink(), "gradients/d/b/kl-train.h5:attn"),
        (
            lambda root: next(root.rglob("*.safetensors")).unlink(),
            "blocks/gradients/d/b/dino-train/key/000000.safetensors",
        ),
        (
            lambda root: (root / "results/knn/d/b.json").write_text('{"results": {"kl": {"accuracy": 0.5}}}'),
            "results/knn/d/b.json:dino",
        ),
    ],
)
def test_the_script_finds_a_loss(damage, name, kill_test, tmp_path):
    _write_files(tmp_path)
    before = kill_test.finished(tmp_path)
    assert kill_test.missing_from(before, before) == []
    damage(tmp_path)
    assert kill_test.missing_from(kill_test.finished(tmp_path), before) == [name]


def test_blocks_that_became_a_feature_file_are_not_lost(kill_test, tmp_path):
    _write_files(tmp_path)
    before = kill_test.finished(tmp_path)
    next(tmp_path.rglob("*.safetensors")).unlink()
    with h5py.File(tmp_path / "gradients/d/b/dino-train.h5", "w") as file:
        file["attn"] = np.arange(6.0)
    assert kill_test.missing_from(kill_test.finished(tmp_path), before) == []
