"""A copy of the code for queued jobs: what is edited after the submission does not change them."""

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from fungi.runtime.versions import COMMIT_FILE, code_commit

_FOLDERS = ("src", "jobs", "scripts")
_LEFT_OUT = ("__pycache__", ".egg-info")


def freeze(project: Path, root: Path) -> Path:
    """Copy the code to `<root>/code/<commit>-<hash of the files>` and give that folder; equal code is copied once."""
    commit = code_commit()
    folder = root / "code" / f"{commit[:12]}-{_digest(project, commit)[:12]}"
    if folder.is_dir():
        return folder
    temporary = folder.with_name(f".{folder.name}.partial-{uuid.uuid4().hex[:12]}")
    for source in _files(project):
        target = temporary / source.relative_to(project)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
    (temporary / COMMIT_FILE).write_text(commit + "\n")
    try:
        temporary.rename(folder)
    except OSError:  # another submission was faster
        shutil.rmtree(temporary)
    return folder


def _digest(project: Path, commit: str) -> str:
    digest = hashlib.sha256(commit.encode())
    for path in _files(project):
        digest.update(f"\0{path.relative_to(project)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(project: Path) -> Iterator[Path]:
    yield from sorted(project.glob("*.py"))
    yield from sorted(project.glob("pyproject.toml"))
    for name in _FOLDERS:
        for path in sorted((project / name).rglob("*")):
            if path.is_file() and not any(part.endswith(_LEFT_OUT) for part in path.parts):
                yield path
