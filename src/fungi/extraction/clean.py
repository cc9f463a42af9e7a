"""`fungi clean`: remove what killed processes left below a root, and nobody needs."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fungi.errors import FungiError, counted
from fungi.runtime.files import is_free_lock
from fungi.runtime.owner import discard, find_orphans
from fungi.settings import setting

DESCRIPTION = """Remove what killed processes left below the root, where it is certain that nobody needs it.

That is: half-written files of processes that are gone (of other machines: untouched for a day), folders whose removal
was cut short, locks that nobody holds, and blocks of files that are finished. Blocks of files that are not finished are
work, and are named, not removed. The stages clean the folders they write to by themselves."""


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """Settings of `fungi clean`."""

    root: Path = setting(Path("features"), "folder of all feature files", topic="files")
    dry_run: bool = setting(False, "say what would be removed, and remove nothing")


def run(settings: CleanSettings) -> None:
    """Remove, or name, what is left over."""
    if not settings.root.is_dir():
        raise FungiError(f"there is no folder {settings.root}. Name the one of the features with --root.")
    for path, why in _left_over(settings.root):
        if not settings.dry_run:
            discard(path)
        print(f"{'would remove' if settings.dry_run else 'removed'} {path}: {why}")
    for text in _unfinished_work(settings.root):
        print(text)


def _left_over(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield (path, reason) for everything that nobody needs."""
    from fungi.store.assembly import block_folders, is_finished

    for place, folders, files in os.walk(root):
        gone = list(find_orphans(Path(place)))
        yield from ((path, "left by a process that is gone") for path in gone)
        yield from (
            (lock, "a lock that nobody holds") for lock in map(Path(place).joinpath, files) if is_free_lock(lock)
        )
        folders[:] = [name for name in folders if Path(place, name) not in gone]
    for blocks in block_folders(root)[0]:
        if is_finished(root / blocks.manifest.file, blocks.manifest):
            yield blocks.folder, f"blocks of {blocks.manifest.file}, which is finished"


def _unfinished_work(root: Path) -> Iterator[str]:
    from fungi.store.assembly import block_folders, is_finished

    folders, errors = block_folders(root)
    yield from (f"left alone: {error}" for error in errors)
    for blocks in folders:
        if not is_finished(root / blocks.manifest.file, blocks.manifest):
            total = len(blocks.manifest.spans())
            there = total - len(blocks.missing())
            yield (
                f"left alone {blocks.folder}: {there} of {counted(total, 'block')} of "
                f"{blocks.manifest.file}, which is not"
                " finished. Delete the folder if you do not want to go on with it."
            )
