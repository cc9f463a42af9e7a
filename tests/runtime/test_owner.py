"""What is nobody's is known by its name: the process that wrote it is gone."""

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
from fungi.runtime.owner import UNTOUCHED, discard, find_orphans, remove_orphans, removed_name, unfinished_name

WRITER = (
    "import sys, time; from pathlib import Path; from fungi.runtime.files import written_atomically\n"
    "with written_atomically(Path(sys.argv[1])) as path:\n"
    "    path.write_text('half'); print('ready', flush=True); time.sleep(60)"
)


def test_what_a_killed_process_was_writing_is_nobodys_and_what_a_living_one_writes_is_not(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "file")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    with written_atomically(tmp_path / "mine") as mine:
        mine.write_text("half")
        assert len(list(tmp_path.iterdir())) == 2
        assert list(find_orphans(tmp_path)) == []
        process.kill()
        process.communicate()
        (left,) = find_orphans(tmp_path)
        assert left != mine
        remove_orphans(tmp_path)
        assert list(tmp_path.iterdir()) == [mine]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_process_that_has_the_pid_of_a_dead_one_is_another(tmp_path, monkeypatch):
    mine = unfinished_name(tmp_path / "file")
    mine.touch()
    assert list(find_orphans(tmp_path)) == []
    start = owner._start_of
    monkeypatch.setattr(owner, "_start_of", lambda pid: start(pid) + 1)
    assert list(find_orphans(tmp_path)) == [mine]


@pytest.mark.parametrize(
    "name", [".a.h5.partial-ffffffff-1-5-abcdef01", ".a.h5.partial-0123456789ab", ".a.json.partial-77"]
)
def test_what_another_machine_writes_is_nobodys_after_a_day(name, tmp_path):
    path = tmp_path / name
    path.touch()
    assert list(find_orphans(tmp_path)) == []
    old = time.time() - UNTOUCHED - 1
    os.utime(path, (old, old))
    assert list(find_orphans(tmp_path)) == [path]


def test_users_files_are_never_taken_for_litter(tmp_path):
    for name in ("a.partial-1", ".hidden", "data.h5", ".git", "x.removed-1", "notes.lock"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    assert list(find_orphans(tmp_path)) == []
    assert not any(is_free_lock(path) for path in tmp_path.iterdir())


def test_half_removed_folders_go_whoever_began(tmp_path):
    folder = removed_name(tmp_path / "key")
    (folder / "inner").mkdir(parents=True)
    remove_orphans(tmp_path)
    assert list(tmp_path.iterdir()) == []
    discard(folder)  # gone already


def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path):
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
    assert [found.name for found in tmp_path.iterdir()] == ["result.json"]


def test_a_lock_of_a_dead_process_is_free_and_taken(tmp_path):
    lock = tmp_path / ".file.lock"
    lock.touch()
    assert is_free_lock(lock)
    with locked(tmp_path / "file"):
        assert lock.exists()
    assert not lock.exists()


def test_a_file_system_without_locks_is_not_waited_for(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with locked(tmp_path / "file"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_threads_write_under_names_of_their_own(tmp_path: Path):
    names = []
    threads = [threading.Thread(target=lambda: names.append(unfinished_name(tmp_path / "x"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 8
