"""Versions of packages and of the code, for the provenance of every file."""

import hashlib
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
JUDGES = (
    "ablations",
    "combine",
    "demos",
    "evaluators",
    "grid",
    "in_context",
    "library",
    "pretraining",
    "report",
    "scoring",
    "segmentation",
)
"""Rooms of the package that no number of a feature file goes through."""

COMMIT_FILE = "COMMIT"
"""Beside `src` in a copy of the code that was made for queued jobs: the commit it was copied from."""


@cache
def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can move a number."""
    found = {"fungi": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@cache
def code_commit() -> str:
    """The git commit of the code, with `+changes` where the work tree differs; 'unknown' outside a checkout."""
    here = Path(__file__).resolve().parent
    copied_from = here.parents[2] / COMMIT_FILE
    if copied_from.is_file():
        return copied_from.read_text().strip()
    try:
        commit = _git("rev-parse", "HEAD", cwd=here)
        changed = _git("status", "--porcelain", "--untracked-files=no", cwd=here)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


@cache
def code_hash(*rooms: str) -> str:
    """Twelve hexadecimal digits for the code that features are made by, whatever it was committed or changed as.

    rooms: in place of those that features are made in.

    A commit that touches documentation, tests or reports alone leaves it as it is; a change that was never committed
    does not.
    """
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        if place.parts[0] in rooms if rooms else place.parts[0] not in JUDGES:
            digest.update(f"{place.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()
