"""Commands work, or say why not in one line, whatever becomes of their streams, their user and their memory."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fungi.commands import COMMANDS
from fungi.runtime import files
from fungi.runtime.files import write_text_atomically
from fungi.settings import parse


def run(command: tuple[str, ...], **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, **{"capture_output": True, "text": True, "check": False} | options)


def shell(line: str, **options) -> subprocess.CompletedProcess[str]:
    return run(("bash", "-c", line.replace("FUNGI", f"{sys.executable} -m fungi")), **options)


def test_a_closed_standard_error_stops_nothing():
    done = shell("FUNGI list datasets 2>&-")
    assert done.returncode == 0
    assert "cifar10" in done.stdout


def test_files_do_not_take_the_number_of_a_closed_stream(tmp_path):
    code = "from fungi.runtime.streams import prepare_streams; prepare_streams(); print(open('f', 'w').fileno())"
    done = shell(f'{sys.executable} -c "{code}" 2>&- 0<&-', cwd=tmp_path)
    assert int(done.stdout) > 2


@pytest.mark.parametrize("command", ["list datasets", "--help"])
def test_a_full_standard_output_is_said_in_one_line(command):
    done = shell(f"FUNGI {command} > /dev/full")
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("command", ["list", "--help", "extract --help"])
def test_a_reader_that_stops_early_is_not_an_error(command):
    done = shell(f"FUNGI {command} | true; echo ${{PIPESTATUS[0]}}")
    assert done.stdout == "0\n"
    assert done.stderr == ""


def test_an_error_that_nobody_reads_keeps_its_status():
    done = shell("FUNGI list --only nothing 2>/dev/full; echo $?")
    assert done.stdout == "2\n"


def test_without_docstrings_names_are_still_listed():
    done = run((sys.executable, "-OO", "-m", "fungi", "list", "objectives"))
    assert done.returncode == 0
    assert "simclr" in done.stdout


def test_letters_that_a_locale_lacks_are_shown_as_codes(tmp_path):
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    root = tmp_path / "m\u00f6we"
    done = run((sys.executable, "-m", "fungi", "merge", "--root", str(root)), env=environment)
    assert done.returncode == 2
    assert "there is no folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_texts_are_utf_8_in_any_locale(tmp_path):
    code = (
        "from pathlib import Path; from fungi.runtime.files import write_text_atomically;"
        " write_text_atomically(Path('t'), chr(246))"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert run((sys.executable, "-c", code), cwd=tmp_path, env=environment).returncode == 0
    assert (tmp_path / "t").read_bytes() == b"\xc3\xb6"


def test_every_text_file_is_opened_as_utf_8():
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed beside this Python")
    top = Path(__file__).resolve().parents[2]
    done = run(
        (str(ruff), "check", "--preview", "--select", "PLW1514", "--isolated", str(top / "src"), str(top / "scripts"))
    )
    assert done.returncode == 0, done.stdout
    plain = [path for path in (top / "src").rglob("*.py") if "read_text()" in path.read_text(encoding="utf-8")]
    assert plain == []


def test_a_user_without_a_name_is_not_an_error(monkeypatch):
    import getpass
    import pwd

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert COMMANDS["list"].main(["--only", "objectives"]) == 0
    assert getpass.getuser() == f"user{os.getuid()}"


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [300, 900])
def test_a_limit_of_memory_is_said_in_one_line(megabytes, tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20,) * 2)

    command = (sys.executable, "-m", "fungi", "extract", "--root", str(tmp_path), "--device", "cpu")
    done = run(command, preexec_fn=limit, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "there is not enough memory" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP])
def test_folders_that_can_not_be_flushed_are_left_alone(error, tmp_path, monkeypatch):
    real = os.fsync

    def fsync(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(error, os.strerror(error))
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_text_atomically(tmp_path / "x", "text")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "text"


def test_a_file_that_can_not_be_flushed_is_an_error(tmp_path, monkeypatch):
    def fsync(handle: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OSError, match="Invalid argument"):
        write_text_atomically(tmp_path / "x", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["extract", "merge", "clean"])
def test_a_tilde_is_the_home_folder(command, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    kind = COMMANDS[command].settings_type
    assert parse(kind, ["--root=~/x"], program="p", description="").root == tmp_path / "x"
