"""Commands work, or name the cause in one line, with unusual streams, users, locales and limits of memory."""

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
    """Run a line in bash. FUNGI stands for the command."""
    return run(("bash", "-c", line.replace("FUNGI", f"{sys.executable} -m fungi")), **options)


def test_a_command_works_if_standard_error_is_closed():
    process = shell("FUNGI list datasets 2>&-")
    assert process.returncode == 0
    assert "cifar10" in process.stdout


def test_an_opened_file_does_not_get_the_number_of_a_closed_stream(tmp_path):
    code = "from fungi.runtime.streams import prepare_streams; prepare_streams(); print(open('f', 'w').fileno())"
    process = shell(f'{sys.executable} -c "{code}" 2>&- 0<&-', cwd=tmp_path)
    assert int(process.stdout) > 2


@pytest.mark.parametrize("command", ["list datasets", "--help"])
def test_the_message_about_a_full_standard_output_is_one_line(command):
    process = shell(f"FUNGI {command} > /dev/full")
    assert process.returncode == 2
    assert "No space left on device" in process.stderr
    assert "Exception ignored" not in process.stderr


@pytest.mark.parametrize("command", ["list", "--help", "extract --help"])
def test_a_reader_that_stops_early_is_not_an_error(command):
    process = shell(f"FUNGI {command} | true; echo ${{PIPESTATUS[0]}}")
    assert process.stdout == "0\n"
    assert process.stderr == ""


def test_a_failed_command_keeps_its_status_if_standard_error_is_full():
    process = shell("FUNGI list --only nothing 2>/dev/full; echo $?")
    assert process.stdout == "2\n"


@pytest.mark.slow
def test_python_without_docstrings_still_lists_names():
    process = run((sys.executable, "-OO", "-m", "fungi", "list", "objectives"))
    assert process.returncode == 0
    assert "simclr" in process.stdout


def test_letters_that_the_locale_does_not_have_are_printed_as_codes(tmp_path):
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    root = tmp_path / "m\u00f6we"
    process = run((sys.executable, "-m", "fungi", "merge", "--root", str(root)), env=environment)
    assert process.returncode == 2
    assert "there is no folder" in process.stderr
    assert "Traceback" not in process.stderr


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
    process = run(
        (str(ruff), "check", "--preview", "--select", "PLW1514", "--isolated", str(top / "src"), str(top / "scripts"))
    )
    assert process.returncode == 0, process.stdout
    without_encoding = [
        path for path in (top / "src").rglob("*.py") if "read_text()" in path.read_text(encoding="utf-8")
    ]
    assert without_encoding == []


def test_a_command_works_for_a_user_without_a_name(monkeypatch):
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
def test_the_message_about_too_little_memory_is_one_line(megabytes, tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20,) * 2)

    command = (sys.executable, "-m", "fungi", "extract", "--root", str(tmp_path), "--device", "cpu")
    process = run(command, preexec_fn=limit, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert "there is not enough memory" in process.stderr.splitlines()[-1]


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_folders_is_accepted(error, tmp_path, monkeypatch):
    original_fsync = os.fsync

    def fsync(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(error, os.strerror(error))
        original_fsync(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_text_atomically(tmp_path / "x", "text")
    assert (tmp_path / "x").read_text(encoding="utf-8") == "text"


def test_a_file_that_cannot_be_flushed_is_an_error(tmp_path, monkeypatch):
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
