"""Killing a stage at any moment loses at most the block in flight: the same command again gives the same bytes of data.

The law is checked by `scripts/kill_test.py`. Here it kills a few times, always at the same
file operations. Kills at random moments are left to the script.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "kill_test.py"


@pytest.mark.slow
def test_kills_between_file_operations_do_not_show_in_the_files():
    stages = ("gradients-simclr", "merge", "knn", "segment")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "12", "--moments", "spaced", "--stages", *stages],
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "12 kills, 0 losses"
    assert done.stdout.count(" 3 kills") == 4  # of each stage
    assert "did not clean" not in done.stdout


@pytest.fixture(scope="module")
def kills():
    """The script as a module."""
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("kill_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    sys.path.remove(str(SCRIPT.parent))


def _files(root: Path) -> None:
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
    ("damage", "named"),
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
def test_the_script_would_see_a_loss(damage, named, kills, tmp_path):
    _files(tmp_path)
    before = kills.finished(tmp_path)
    assert kills.missing_from(before, before) == []
    damage(tmp_path)
    assert kills.missing_from(kills.finished(tmp_path), before) == [named]


def test_blocks_that_became_their_file_are_no_loss(kills, tmp_path):
    _files(tmp_path)
    before = kills.finished(tmp_path)
    next(tmp_path.rglob("*.safetensors")).unlink()
    with h5py.File(tmp_path / "gradients/d/b/dino-train.h5", "w") as file:
        file["attn"] = np.arange(6.0)
    assert kills.missing_from(kills.finished(tmp_path), before) == []
