"""Folders for the compiled code of torch, so that several processes compile only once."""

import os
from pathlib import Path

import torch

from fungi.runtime.device import device_name
from fungi.runtime.user import cache_folder, ensure_user_name

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def share_compiled_code(folder: Path | None, device: torch.device) -> None:
    """Let torch store its compiled code in a subfolder of `folder`. Each GPU model has its own subfolder.

    If there is no folder, or if this process can't write into it, torch uses its default folder, whose name contains
    the name of the user. Do nothing on a CPU, or if the variable TORCHINDUCTOR_CACHE_DIR already names a folder.
    """
    if device.type != "cuda" or os.environ.get(CACHE_VARIABLE):
        return
    ensure_user_name()
    if folder is not None:
        gpu = device_name(device).replace(" ", "-").replace("/", "-")  # e.g. NVIDIA-H200
        subfolder = (folder / gpu).resolve()
        if _is_writable(subfolder):
            os.environ[CACHE_VARIABLE] = str(subfolder)


def user_folder() -> Path | None:
    """Return the user's folder for compiled code, for programs that have no folder of features.

    Return None for a user without a home folder.
    """
    caches = cache_folder()
    return None if caches is None else caches / "fungi" / "compiled"


def _is_writable(folder: Path) -> bool:
    """Return whether this process can write files into a folder. Create the folder if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
