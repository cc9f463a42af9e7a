"""Files appear only when they are complete, and a shared file is written only once."""

import os
from pathlib import Path

import pytest

from fungi.runtime.files import ensure_folder, written_atomically, written_once


def test_of_two_simultaneous_writers_one_wins(tmp_path: Path) -> None:
    """`written_atomically` lets the last writer win, and `written_once` the first."""
    for writer, winner in ((written_atomically, "late"), (written_once, "early")):
        path = tmp_path / writer.__name__
        with writer(path) as slow:
            slow.write_text("late")
            with writer(path) as fast:
                fast.write_text("early")
        assert path.read_text() == winner
        assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("exists", [True, False])
def test_a_shared_file_can_be_written_without_hard_links(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "file"
    if exists:
        path.write_text("early")
    with written_once(path) as temporary:
        temporary.write_text("late")
    assert path.read_text() == ("early" if exists else "late")
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("writer", [written_atomically, written_once])
def test_a_writer_that_fails_leaves_no_file(writer, tmp_path: Path) -> None:
    def fail() -> None:
        with writer(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_removes_at_the_same_moment_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Path.mkdir` finds the folder, but it is gone when `Path.mkdir` checks whether it is a folder."""
    folder, is_dir, removed = tmp_path / "a" / "b", Path.is_dir, []
    folder.mkdir(parents=True)

    def remove_and_check(path: Path) -> bool:
        if not removed:
            removed.append(path)
            path.rmdir()
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", remove_and_check)
    ensure_folder(folder)
    assert removed == [folder]
    assert folder.is_dir()


def test_a_file_with_the_name_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        ensure_folder(tmp_path / "file")
