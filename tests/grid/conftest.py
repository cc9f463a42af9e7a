"""Fixtures for tests of the grid: a small grid without squeue, and a fake sbatch."""

import stat
from pathlib import Path

import pytest

from fungi.grid.declaration import Grid

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """Return a grid with the test split of the digits, in two shards."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue
    return Grid(root=tmp_path, splits=("test",), shards=2, datasets=("digits",))


@pytest.fixture
def fake_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install an sbatch that writes each call and its grid to a file. Return the folder of these files.

    Job ids are 1, 2, ...
    """
    calls = tmp_path / "calls"
    calls.mkdir()
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    lines = [
        "#!/bin/sh",
        f"n=$(($(ls {calls} | wc -l) + 1))",
        f'printf "%s\\n" "$FUNGI_GRID" "$FUNGI_PROJECT" "$@" > {calls}/$n',
        "echo $n",
    ]
    program.write_text("\n".join([*lines, ""]))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    squeue = program.with_name("squeue")  # an empty queue, also if a real squeue is installed
    squeue.write_text("#!/bin/sh\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return calls


@pytest.fixture
def project_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the folder of the project, without variables that choose another grid or interpreter."""
    monkeypatch.chdir(ROOT)
    for name in ("FUNGI_PROJECT", "FUNGI_GRID", "FUNGI_PYTHON"):
        monkeypatch.delenv(name, raising=False)
