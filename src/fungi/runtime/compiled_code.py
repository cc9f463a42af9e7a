"""Folders for the compiled code of torch, so that several processes compile only once."""

import os
from pathlib import Path

import torch

from fungi.runtime.device import device_name

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def share_compiled_code(folder: Path, device: torch.device) -> None:
    """Let torch store its compiled code in a subfolder of `folder`. Each GPU model has its own subfolder.

    Do nothing on a CPU, or if the variable TORCHINDUCTOR_CACHE_DIR already names a folder.
    """
    if device.type == "cuda":
        gpu = device_name(device).replace(" ", "-").replace("/", "-")  # e.g. NVIDIA-H200
        os.environ.setdefault(CACHE_VARIABLE, str((folder / gpu).resolve()))


def user_folder() -> Path:
    """Return the user's folder for compiled code, for programs that have no folder of features."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "fungi", "compiled")
