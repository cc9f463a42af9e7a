"""Versions of packages and the commit of the code, for the provenance of every file."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fungi import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "numpy",
    "scikit-learn",
    "scipy",
    "datasets",
    "h5py",
    "pillow",
)
COMMIT_FILE = "COMMIT"
"""File next to `src` in a copy of the code for queued jobs: it contains the commit of the copied code."""


@cache
def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that can change a number."""
    versions = {"fungi": __version__}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions


@cache
def code_commit() -> str:
    """Return the git commit of the code, with `+changes` for uncommitted changes; `unknown` outside a checkout."""
    folder = Path(__file__).resolve().parent
    commit_file = folder.parents[2] / COMMIT_FILE
    if commit_file.is_file():
        return commit_file.read_text(encoding="utf-8").strip()
    try:
        commit = _git("rev-parse", "HEAD", cwd=folder)
        changes = _git("status", "--porcelain", "--untracked-files=no", cwd=folder)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changes else "")


def _git(*arguments: str, cwd: Path) -> str:
    process = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return process.stdout.strip()
