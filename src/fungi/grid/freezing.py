"""Copy the code for queued jobs, so that later edits and upgrades do not change these jobs."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from fungi.runtime.owner import discard, remove_orphans, unfinished_name
from fungi.runtime.versions import COMMIT_FILE, code_commit

_FOLDERS = ("src", "jobs", "scripts")
_LEFT_OUT = ("__pycache__", ".egg-info")


def freeze(project: Path, root: Path) -> Path:
    """Copy the code to `<root>/code/<commit>-<hash of the files>`, unless this folder exists, and return the folder.

    If the copy fails, for example on a full disk, the incomplete copy is removed. The next call removes the copies of
    killed processes.
    """
    commit = code_commit()
    folder = root / "code" / f"{commit[:12]}-{_digest(project, commit)[:12]}"
    if folder.is_dir():
        return folder
    remove_orphans(folder.parent)
    temporary = unfinished_name(folder)
    try:
        for source, path_in_copy in _files(project):
            target = temporary / path_in_copy
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        (temporary / COMMIT_FILE).write_text(commit + "\n", encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # if the folder exists, another submission has copied the same code
                raise
    finally:
        discard(temporary)
    return folder


def _digest(project: Path, commit: str) -> str:
    """Return the hash of the commit and of all files of the code."""
    digest = hashlib.sha256(commit.encode())
    for path, path_in_copy in _files(project):
        digest.update(f"\0{path_in_copy}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(project: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every file of the code and its path in the copy.

    The copy of an installed package has the layout of a checkout: modules in src, job files (package data) in jobs.
    """
    if not (project / "src").is_dir():
        for path in _below(project):
            relative = path.relative_to(project)
            yield path, relative if relative.parts[0] == "jobs" else Path("src") / project.name / relative
        return
    for path in (*sorted(project.glob("*.py")), *project.glob("pyproject.toml")):
        yield path, path.relative_to(project)
    for name in _FOLDERS:
        for path in _below(project / name):
            yield path, path.relative_to(project)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in sorted order, except files that Python generates."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.endswith(_LEFT_OUT) for part in path.parts):
            yield path
