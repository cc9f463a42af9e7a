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

DESCRIPTION = """Assemble the blocks under <root>/blocks into feature files.

The last shard of an extraction already does this. Use this command in a dependent job, to be sure that all files are
complete: if blocks are missing, it names them and fails. It needs neither model nor data. It never replaces an existing
file that was computed in another way."""


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """Settings of `fungi merge`."""

    root: Path = setting(Path("features"), "folder of all feature files", topic="files")
    accept_other_versions: bool = setting(
        False,
        "assemble blocks of different versions of the code or of packages; the file will name the versions",
        topic="files",
    )
    dataset: str = setting("", "assemble only the files of this dataset; default: all datasets", topic="data")
    backbone: str = setting("", "assemble only the files of this backbone; default: all backbones", topic="model")
    expect: tuple[str, ...] = setting((), "feature files below the root that must exist at the end", topic="files")

    def outputs(self) -> list[Path]:
        """Return the expected files."""
        return [self.root / file for file in self.expect]


def run(settings: MergeSettings) -> None:
    """Assemble the complete files, then fail if any file is incomplete."""
    from fungi.store.assembly import assemble, block_folders
    from fungi.store.layout import Layout

    if not settings.root.is_dir():
        raise FungiError(f"there is no folder {settings.root}. Name the folder of the features with --root.")
    dataset, backbone = (text.partition("=")[0] for text in (settings.dataset, settings.backbone))
    for folder in Layout(settings.root).written_folders(dataset, backbone):
        remove_orphans_below(folder)
    folders, errors = block_folders(settings.root, dataset, backbone)
    problems = [str(error) for error in errors]
    for blocks in folders:
        path = settings.root / blocks.manifest.file
        try:
            if _belongs_to_another_run(blocks, path):
                continue
            assemble(blocks, path, accept=settings.accept_other_versions)
            print(f"wrote {path}: {counted(blocks.manifest.provenance.rows, 'row')}")
        except FungiError as error:
            problems.append(str(error))
    absent = [file for file in settings.expect if not (settings.root / file).exists()]
    # Blocks of a file that is not assembled cause a problem that names the file.
    without_blocks = [file for file in absent if not any(file in problem for problem in problems)]
    if without_blocks:
        more = f" and {len(without_blocks) - 8} more" if len(without_blocks) > 8 else ""
        files = ", ".join(without_blocks[:8]) + more
        problems.append(f"there are no blocks of: {files}. Run the stages that write them.")
    if problems:
        raise FungiError(" ".join(problems))


def _belongs_to_another_run(blocks: "BlockFolder", path: Path) -> bool:
    """Return whether the file exists and was computed in another way, so that the blocks belong to an unfinished run.

    Raises FungiError if such a file exists and all blocks exist too: the user has to choose the file or the blocks.
    """
    from fungi.store.assembly import check_finished
    from fungi.store.provenance import OTHER_FILE_ADVICE

    try:
        check_finished(path, blocks.manifest)
    except FungiError as error:
        cause = str(error).removesuffix(OTHER_FILE_ADVICE).rstrip()  # neither flag helps here
        if not blocks.missing():
            advice = f"Remove the one that you do not need: the file or the folder {blocks.folder}."
            raise FungiError(f"{cause} {advice}") from None
        logger.warning(f"not changed: {cause} An unfinished run left its blocks in {blocks.folder}.")
        return True
    return False
