"""Orphans of killed processes are removed, parallel processes succeed, and files have the user's access modes."""

import json
import multiprocessing
import os
import stat
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from fungi.commands import COMMANDS
from fungi.report import write_report
from fungi.report.write_report import ReportSettings
from fungi.runtime.owner import unfinished_name
from fungi.similar.index import Index
from fungi.store.assembly import assemble, block_folders
from fungi.store.banks import Bank, BankManifest
from fungi.store.blocks import MANIFEST
from tests.evaluation.test_report import content
from tests.store.blocks import VALUES, create_blocks, files_below, fill

FILE = "gradients/pictures/digits-vit/kl-train.h5"


def orphan_of(path: Path) -> Path:
    """Create the unfinished file of a process that has ended, and return its path."""

    def write(queue) -> None:
        queue.put(unfinished_name(path))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=write, args=(queue,))
    process.start()
    orphan = queue.get()
    process.join()
    orphan.parent.mkdir(parents=True, exist_ok=True)
    orphan.touch()
    return orphan


def clean(root: Path, *flags: str) -> None:
    assert COMMANDS["clean"].main(["--root", str(root), *flags]) == 0


def test_stages_remove_orphans_from_the_folders_that_they_write_to(tmp_path):
    blocks, path = create_blocks(tmp_path)
    orphans = [orphan_of(blocks.folder / "000001.safetensors"), orphan_of(path)]
    removed = blocks.folder.with_name(".old.removed-0123456789ab")
    removed.mkdir()
    blocks, path = create_blocks(tmp_path)
    assert [file.name for file in blocks.folder.iterdir()] == [MANIFEST]
    fill(blocks)
    assemble(blocks, path)
    assert not any(orphan.exists() for orphan in (*orphans, removed))
    assert files_below(tmp_path) == {FILE}


def test_clean_removes_orphans_and_prints_their_paths(tmp_path, capsys):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    create_blocks(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "blocks").rename(tmp_path / "blocks" / "other")
    orphans = {orphan_of(tmp_path / "results" / "knn" / "x.json"), orphan_of(tmp_path / "support" / "y.safetensors")}
    lock = tmp_path / "results" / "knn" / ".x.json.lock"
    lock.touch()
    file_of_this_process = unfinished_name(path)  # no orphan, because this process has not ended
    path.parent.mkdir(parents=True)
    file_of_this_process.touch()
    before = files_below(tmp_path)
    capsys.readouterr()
    clean(tmp_path, "--dry-run")
    output = capsys.readouterr().out
    assert files_below(tmp_path) == before
    assert output.count("would remove") == 3
    assert all(str(orphan) in output for orphan in (*orphans, lock))
    assert output.count("kept ") == 2  # blocks of unfinished files
    clean(tmp_path)
    assert before - files_below(tmp_path) == {str(orphan.relative_to(tmp_path)) for orphan in (*orphans, lock)}
    assert capsys.readouterr().out.count("removed ") == 3


def test_clean_removes_the_blocks_of_a_finished_file(tmp_path, capsys):
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    assemble(blocks, path)
    blocks, path = create_blocks(tmp_path)  # like a kill before the blocks of a finished file are removed
    clean(tmp_path)
    assert f"blocks of {FILE}, which is finished" in capsys.readouterr().out
    assert files_below(tmp_path) == {FILE}


def test_clean_refuses_a_root_that_does_not_exist(tmp_path, capsys):
    assert COMMANDS["clean"].main(["--root", str(tmp_path / "typo")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_a_kill_while_blocks_are_removed_leaves_no_folder_with_a_valid_name(tmp_path, monkeypatch):
    blocks, _ = create_blocks(tmp_path)
    fill(blocks)
    monkeypatch.setattr(
        "fungi.store.blocks.remove_orphans", lambda parent: next(parent.rglob("*.safetensors")).unlink()
    )
    blocks.remove()
    monkeypatch.undo()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    assert block_folders(tmp_path) == ([], [])
    blocks.remove()  # the stage does so if the feature file exists
    assert list(tmp_path.rglob("*.safetensors")) == []
    create_blocks(tmp_path)
    assert files_below(tmp_path) == {f"blocks/{FILE[:-3]}/{blocks.folder.name}/{MANIFEST}"}


def test_a_block_that_is_written_while_its_folder_is_removed_recreates_the_folder(tmp_path):
    slow, path = create_blocks(tmp_path)
    fast, _ = create_blocks(tmp_path)
    fill(fast)
    assemble(fast, path)
    span = slow.manifest.spans()[0]
    slow.write(span, {"attn": VALUES[span.start : span.stop]})
    assert len(slow.missing()) == 4
    fill(slow)
    assemble(slow, path)
    assert files_below(tmp_path) == {FILE}


@pytest.mark.slow
def test_threads_that_do_the_same_work_all_succeed(tmp_path):
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(8):
                blocks, path = create_blocks(tmp_path)
                fill(blocks)
                assemble(blocks, path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with h5py.File(tmp_path / FILE) as file:
        np.testing.assert_array_equal(file["attn"][:], VALUES)
    assert not [name for name in files_below(tmp_path) if ".partial-" in name]


@pytest.mark.parametrize("mask", [0o002, 0o027])
def test_files_have_the_access_modes_of_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        blocks, path = create_blocks(tmp_path)
        fill(blocks)
        modes = {stat.S_IMODE(file.stat().st_mode) for file in blocks.folder.iterdir()}
        assemble(blocks, path)
    finally:
        os.umask(before)
    assert modes | {stat.S_IMODE(path.stat().st_mode)} == {0o666 & ~mask}


def test_files_in_a_shared_folder_belong_to_the_group_of_the_folder(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("changing the group of a folder needs root")
    os.chown(tmp_path, -1, 12345)
    tmp_path.chmod(0o2775)
    blocks, path = create_blocks(tmp_path)
    fill(blocks)
    assert {file.stat().st_gid for file in blocks.folder.iterdir()} == {12345}
    assemble(blocks, path)
    assert path.stat().st_gid == 12345
    assert path.parent.stat().st_mode & stat.S_ISGID


def test_banks_reports_and_indexes_remove_orphans_from_their_folders(tmp_path):
    manifest = BankManifest(dim=2, classes=1, dtype="float32", ends=(2,), provenance={})
    bank, report = tmp_path / "bank", tmp_path / "report"
    Bank.create(bank, manifest)
    result = tmp_path / "results" / "knn.json"
    result.parent.mkdir()
    result.write_text(json.dumps(content({"embeddings": 0.5})))
    paths = (bank / "bank.json", bank / "done" / "000000", report / "report.csv", report / "figures" / "dots.png")
    orphans = [orphan_of(path) for path in paths]
    orphans.append(orphan_of(tmp_path / "similar" / "index.safetensors"))
    Bank.create(bank, manifest)
    write_report.run(ReportSettings(results=(result,), output=report, formats=("csv", "png")))
    Index(np.zeros((0, 2), np.float32), {"embeddings": 2}, {}).write(tmp_path / "similar")
    assert not [orphan for orphan in orphans if orphan.exists()]
