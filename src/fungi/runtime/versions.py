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
"""Beside `src` in a copy of the code that was made for queued jobs: the commit it was copied from."""


@cache
def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can move a number."""
    versions = {"fungi": __version__}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions


@cache
def code_commit() -> str:
    """Return the git commit of the code, with `+changes` where the work tree differs; 'unknown' outside a checkout."""
    here = Path(__file__).resolve().parent
    copied_from = here.parents[2] / COMMIT_FILE
    if copied_from.is_file():
        return copied_from.read_text(encoding="utf-8").strip()
    try:
        commit = _git("rev-parse", "HEAD", cwd=here)
        changed = _git("status", "--porcelain", "--untracked-files=no", cwd=here)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


def _git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()
