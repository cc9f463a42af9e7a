"""Merges that run at the same time all succeed, and a damaged manifest affects only its own file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from fungi.store.assembly import assemble, block_folders
from fungi.store.blocks import MANIFEST, BlockFolder
from fungi.store.reading import open_array
from tests.store.blocks import ROWS, VALUES, create_blocks, files_below, fill

FILE = "gradients/pictures/digits-vit/kl-train.h5"


def merge(root: Path, *flags: str) -> int:
    return COMMANDS["merge"].main(["--root", str(root), *flags])


def call_after(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, action: Callable[[], None]) -> None:
    """Call `action` right after the first call of a method, to simulate another process."""
    original, is_first_call = getattr(owner, name), iter([True])

    def wrapped(*arguments, **options):
        result = original(*arguments, **options)
        if next(is_first_call, False):
            action()
        return result

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("after", ["require_complete", "origin", "_load", "missing"])
def test_a_file_that_another_process_finishes_during_the_merge_is_accepted(after, tmp_path, monkeypatch):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    rival, _ = create_blocks(tmp_path)
    call_after(monkeypatch, BlockFolder, after, lambda: assemble(rival, path))
    assert merge(tmp_path) == 0
    assert files_below(tmp_path) == {FILE}
    assert (open_array(path, "attn").read(0, ROWS) == VALUES).all()


def test_a_manifest_that_is_removed_while_manifests_are_listed_is_skipped(tmp_path, monkeypatch):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    original_open = BlockFolder.open

    def assemble_and_open(folder):
        assemble(blocks, path)
        return original_open(folder)

    monkeypatch.setattr(BlockFolder, "open", assemble_and_open)
    assert block_folders(tmp_path) == ([], [])


@pytest.fixture
def two_files(tmp_path):
    """Write blocks of two datasets, damage the manifest of the second, `other`, and return the root."""
    fill(create_blocks(tmp_path)[0])
    (tmp_path / "blocks/gradients/pictures").rename(tmp_path / "pictures")
    fill(create_blocks(tmp_path)[0])
    (tmp_path / "pictures").rename(tmp_path / "blocks/gradients/other")
    (manifest,) = (tmp_path / "blocks/gradients/other").rglob(MANIFEST)
    manifest.write_text("{")
    return tmp_path


def test_a_damaged_manifest_is_named_and_other_files_are_assembled(two_files, capsys):
    assert merge(two_files) == 2
    error = capsys.readouterr().err
    assert "other/digits-vit/kl-train" in error
    assert "manifest.json is damaged" in error
    assert (two_files / FILE).is_file()


def test_a_damaged_manifest_of_another_dataset_is_ignored(two_files, capsys):
    assert merge(two_files, "--dataset", "pictures", "--backbone", "digits-vit") == 0
    assert merge(two_files, "--dataset", "other=folder:somewhere") == 2
    assert "manifest.json is damaged" in capsys.readouterr().err


def test_clean_names_a_damaged_manifest_and_continues(two_files, capsys):
    assert COMMANDS["clean"].main(["--root", str(two_files)]) == 0
    output = capsys.readouterr().out
    assert "manifest.json is damaged" in output
    assert "5 of 5 blocks of gradients/pictures" in output


def test_a_merge_removes_the_orphans_of_killed_merges(tmp_path):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    assemble(blocks, path)
    removed = tmp_path / "blocks/gradients/pictures/digits-vit/kl-train/.key.removed-0123456789ab"
    (removed / "000000.safetensors").mkdir(parents=True)
    assert merge(tmp_path) == 0
    assert not removed.exists()
