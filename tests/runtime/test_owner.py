"""Orphans are recognised by their names, which contain the process that wrote them."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fungi.runtime import owner
from fungi.runtime.files import is_free_lock, locked, written_atomically
from fungi.runtime.owner import (
    SECONDS_WITHOUT_CHANGES,
    discard,
    find_orphans,
    remove_orphans,
    removed_name,
    unfinished_name,
)

WRITER = (
    "import sys, time; from pathlib import Path; from fungi.runtime.files import written_atomically\n"
    "with written_atomically(Path(sys.argv[1])) as path:\n"
    "    path.write_text('half'); print('ready', flush=True); time.sleep(60)"
)


def test_files_of_a_killed_writer_are_orphans_and_files_of_a_living_writer_are_not(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "file")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    with written_atomically(tmp_path / "own") as own:
        own.write_text("half")
        assert len(list(tmp_path.iterdir())) == 2
        assert list(find_orphans(tmp_path)) == []
        process.kill()
        process.communicate()
        (orphan,) = find_orphans(tmp_path)
        assert orphan != own
        remove_orphans(tmp_path)
        assert list(tmp_path.iterdir()) == [own]
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_another_process_with_the_pid_of_a_dead_writer_is_not_the_writer(tmp_path, monkeypatch):
    path = unfinished_name(tmp_path / "file")
    path.touch()
    assert list(find_orphans(tmp_path)) == []
    start = owner._start_of
    monkeypatch.setattr(owner, "_start_of", lambda pid: start(pid) + 1)
    assert list(find_orphans(tmp_path)) == [path]


@pytest.mark.parametrize(
    "name", [".a.h5.partial-ffffffff-1-5-abcdef01", ".a.h5.partial-0123456789ab", ".a.json.partial-77"]
)
def test_files_of_another_machine_become_orphans_after_a_day(name, tmp_path):
    path = tmp_path / name
    path.touch()
    assert list(find_orphans(tmp_path)) == []
    old = time.time() - SECONDS_WITHOUT_CHANGES - 1
    os.utime(path, (old, old))
    assert list(find_orphans(tmp_path)) == [path]


def test_files_of_users_are_never_orphans(tmp_path):
    for name in ("a.partial-1", ".hidden", "data.h5", ".git", "x.removed-1", "notes.lock"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    assert list(find_orphans(tmp_path)) == []
    assert not any(is_free_lock(path) for path in tmp_path.iterdir())


def test_folders_that_were_partly_removed_are_orphans_of_any_process(tmp_path):
    folder = removed_name(tmp_path / "key")
    (folder / "inner").mkdir(parents=True)
    remove_orphans(tmp_path)
    assert list(tmp_path.iterdir()) == []
    discard(folder)  # no error, although the folder does not exist any more


def test_only_one_process_has_a_lock_and_the_lock_leaves_no_file(tmp_path):
    path = tmp_path / "result.json"
    code = (
        "import sys; from pathlib import Path; from fungi.runtime.files import locked\n"
        "place = Path(sys.argv[1])\n"
        "for _ in range(100):\n"
        "    with locked(place):\n"
        "        place.write_text(str(int(place.read_text()) + 1))"
    )
    path.write_text("0")
    workers = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert path.read_text() == "300"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_the_lock_of_a_dead_process_is_free(tmp_path):
    lock = tmp_path / ".file.lock"
    lock.touch()
    assert is_free_lock(lock)
    with locked(tmp_path / "file"):
        assert lock.exists()
    assert not lock.exists()


def test_on_a_file_system_without_locks_nothing_is_locked(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with locked(tmp_path / "file"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_each_thread_has_its_own_temporary_name(tmp_path: Path):
    names = []
    threads = [threading.Thread(target=lambda: names.append(unfinished_name(tmp_path / "x"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 8
