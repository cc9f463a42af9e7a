"""`fungi merge`: assemble the blocks of all shards into feature files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fungi.errors import FungiError, counted
from fungi.runtime.log import logger
from fungi.runtime.owner import remove_orphans_below
from fungi.settings import setting

if TYPE_CHECKING:
    from fungi.store.blocks import BlockFolder

DESCRIPTION = """Assemble every feature file whose blocks lie under <root>/blocks.

The last shard to finish does so by itself; this command is for a dependent job that has to be sure. It fails, and
says which blocks are missing, where a file is incomplete. It needs neither model nor data. A file that is there and was
computed in another way is never replaced."""


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """Settings of `fungi merge`."""

    root: Path = setting(Path("features"), "folder of all feature files", topic="files")
    accept_other_versions: bool = setting(
        False,
        "assemble blocks that different versions of the code or of packages made; the file will name them",
        topic="files",
    )
    dataset: str = setting("", "assemble the files of this dataset alone; of all if absent", topic="data")
    backbone: str = setting("", "assemble the files of this backbone alone; of all if absent", topic="model")
    expect: tuple[str, ...] = setting(
        (), "feature files below the root that have to be there in the end", topic="files"
    )

    def outputs(self) -> list[Path]:
        """Return the expected files."""
        return [self.root / file for file in self.expect]


def run(settings: MergeSettings) -> None:
    """Assemble the complete files, then fail if any file is incomplete."""
    from fungi.store.assembly import assemble, block_folders
    from fungi.store.layout import Layout

    if not settings.root.is_dir():
        raise FungiError(f"there is no folder {settings.root}. Name the one of the features with --root.")
    dataset, backbone = (text.partition("=")[0] for text in (settings.dataset, settings.backbone))
    for folder in Layout(settings.root).written_folders(dataset, backbone):
        remove_orphans_below(folder)
    unfinished, errors = block_folders(settings.root, dataset, backbone)
    problems = [str(error) for error in errors]
    for blocks in unfinished:
        path = settings.root / blocks.manifest.file
        try:
            if _belongs_to_another_run(blocks, path):
                continue
            assemble(blocks, path, accept=settings.accept_other_versions)
            print(f"wrote {path}: {counted(blocks.manifest.provenance.rows, 'row')}")
        except FungiError as error:
            problems.append(str(error))
    absent = [file for file in settings.expect if not (settings.root / file).exists()]
    never_begun = [file for file in absent if not any(file in problem for problem in problems)]
    if never_begun:
        shown = ", ".join(never_begun[:8]) + (f" and {len(never_begun) - 8} more" if len(never_begun) > 8 else "")
        problems.append(f"no block is there of: {shown}. Run the stages that make them.")
    if problems:
        raise FungiError(" ".join(problems))


def _belongs_to_another_run(blocks: "BlockFolder", path: Path) -> bool:
    """Return whether the file is there, made in another way, and these blocks are what an unfinished run left behind.

    FungiError if all blocks are there: which of the two is wanted can't be known.
    """
    from fungi.store.assembly import check_finished

    try:
        check_finished(path, blocks.manifest)
    except FungiError as error:
        way_out = f"Move away the file or the folder {blocks.folder}, whichever is not wanted."
        what = str(error).partition(" Choose another --root")[0]
        if not blocks.missing():
            raise FungiError(f"{what} {way_out}") from None
        logger.warning(f"left alone: {what} An unfinished run left its blocks in {blocks.folder}.")
        return True
    return False
