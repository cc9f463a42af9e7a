"""Files appear whole, and what all have to share comes from one writer."""

import os
from pathlib import Path

import pytest

from fungi.runtime.files import ensure_folder, written_atomically, written_once


def test_of_writers_at_once_the_last_wins_or_the_first_as_is_asked(tmp_path: Path) -> None:
    for writer, winner in ((written_atomically, "late"), (written_once, "early")):
        path = tmp_path / writer.__name__
        with writer(path) as slow:
            slow.write_text("late")
            with writer(path) as fast:
                fast.write_text("early")
        assert path.read_text() == winner
        assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("taken", [True, False])
def test_a_file_system_without_hard_links_will_do(taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "file"
    if taken:
        path.write_text("early")
    with written_once(path) as temporary:
        temporary.write_text("late")
    assert path.read_text() == ("early" if taken else "late")
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("writer", [written_atomically, written_once])
def test_a_writer_that_fails_leaves_nothing(writer, tmp_path: Path) -> None:
    def fail() -> None:
        with writer(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_removes_meanwhile_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Path.mkdir` sees the folder, and then, when it looks whether it is one, no longer."""
    folder, is_dir, removed = tmp_path / "a" / "b", Path.is_dir, []
    folder.mkdir(parents=True)

    def removed_before(path: Path) -> bool:
        if not removed:
            removed.append(path)
            path.rmdir()
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", removed_before)
    ensure_folder(folder)
    assert removed == [folder]
    assert folder.is_dir()


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        ensure_folder(tmp_path / "file")
