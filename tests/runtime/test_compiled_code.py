"""Compiled code is shared in a folder that can be written. Otherwise, torch uses its own default folder."""

import getpass
import os
from pathlib import Path

import pytest
import torch

from fungi.runtime.compiled_code import CACHE_VARIABLE, share_compiled_code, user_folder

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")


def _user_without_name_and_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove everything that tells a process the name and the home folder of its user.

    The tested code sets USER. `delenv` records nothing if a variable is not set, so USER would then keep its new value
    after the test. `setenv` with an empty name always restores the variable.
    """

    def raise_error(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "")
    monkeypatch.setattr("pwd.getpwuid", raise_error)


def test_the_shared_folder_exists_before_torch_uses_it(tmp_path: Path) -> None:
    share_compiled_code(tmp_path / "new" / "compiled", GPU)
    assert os.environ[CACHE_VARIABLE] == str(tmp_path.resolve() / "new" / "compiled" / "NVIDIA-H200")
    assert Path(os.environ[CACHE_VARIABLE]).is_dir()


@pytest.mark.parametrize("reason", ["a file has its name", "no permission", "no folder"])
def test_torch_uses_its_default_folder_if_the_shared_folder_cannot_be_written(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "compiled"
    if reason == "a file has its name":
        folder.touch()
    if reason == "no permission":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    share_compiled_code(None if reason == "no folder" else folder, GPU)
    assert not os.environ.get(CACHE_VARIABLE)


def test_a_user_without_name_and_home_can_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    _user_without_name_and_home(monkeypatch)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    assert user_folder() is None
    share_compiled_code(user_folder(), GPU)
    # Without a name, the user is called "user" and its number. Torch puts this name into its default folder.
    assert default_cache_dir().endswith(f"torchinductor_user{os.getuid()}")


def test_nothing_changes_on_a_cpu_or_if_the_user_names_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_compiled_code(tmp_path / "compiled", torch.device("cpu"))
    assert not os.environ[CACHE_VARIABLE]
    monkeypatch.setenv(CACHE_VARIABLE, "folder of the user")
    share_compiled_code(tmp_path / "compiled", GPU)
    assert os.environ[CACHE_VARIABLE] == "folder of the user"
    assert not (tmp_path / "compiled").exists()
