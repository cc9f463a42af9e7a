"""`fungi clean`: remove files that killed processes left behind and that nobody needs."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fungi.errors import FungiError, counted
from fungi.runtime.files import is_free_lock
from fungi.runtime.owner import discard, find_orphans
from fungi.settings import setting

DESCRIPTION = """Remove files below the root that killed processes left behind and that are certainly not needed.

These are: half-written files of processes that do not exist any more (on other machines: files without changes for a
day), partly removed folders, lock files that no process holds, and blocks of finished feature files. Blocks of
unfinished feature files are listed and kept. Every stage also cleans the folders to which it writes."""


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """Settings of `fungi clean`."""

    root: Path = setting(Path("features"), "folder of all feature files", topic="files")
    dry_run: bool = setting(False, "only print what would be removed")


def run(settings: CleanSettings) -> None:
    """Remove the files that are not needed (for a dry run, only print them), and print the unfinished extractions.

    Raises FungiError if the root does not exist.
    """
    if not settings.root.is_dir():
        raise FungiError(f"there is no folder {settings.root}. Name the folder of the features with --root.")
    for path, reason in _unneeded_paths(settings.root):
        if not settings.dry_run:
            discard(path)
        print(f"{'would remove' if settings.dry_run else 'removed'} {path}: {reason}")
    for text in _unfinished_work(settings.root):
        print(text)


def _unneeded_paths(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield (path, reason) for every file and folder that is not needed."""
    from fungi.store.assembly import block_folders, is_finished

    for name, subfolders, files in os.walk(root):
        folder = Path(name)
        orphans = list(find_orphans(folder))
        yield from ((path, "left by a process that does not exist any more") for path in orphans)
        yield from ((folder / file, "a lock that no process holds") for file in files if is_free_lock(folder / file))
        subfolders[:] = [subfolder for subfolder in subfolders if folder / subfolder not in orphans]
    for blocks in block_folders(root)[0]:
        if is_finished(root / blocks.manifest.file, blocks.manifest):
            yield blocks.folder, f"blocks of {blocks.manifest.file}, which is finished"


def _unfinished_work(root: Path) -> Iterator[str]:
    """Yield a text for every folder of blocks that can't be read or whose feature file is not finished."""
    from fungi.store.assembly import block_folders, is_finished

    folders, errors = block_folders(root)
    yield from (f"kept: {error}" for error in errors)
    for blocks in folders:
        file = blocks.manifest.file
        if not is_finished(root / file, blocks.manifest):
            total = len(blocks.manifest.spans())
            finished = total - len(blocks.missing())
            yield (
                f"kept {blocks.folder}: {finished} of {counted(total, 'block')} of {file}, which is not finished."
                " Delete the folder if you do not want to continue this extraction."
            )
