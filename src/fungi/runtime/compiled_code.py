"""The folder in which torch keeps compiled code, so that several processes compile only once."""

import os
from pathlib import Path

import torch

from fungi.runtime.device import device_name

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def share_compiled_code(folder: Path, device: torch.device) -> None:
    """Let torch keep the code that it compiles for a GPU in a folder below `folder`, one for each model of a GPU.

    Do nothing on a CPU, or if the variable TORCHINDUCTOR_CACHE_DIR already names a folder.
    """
    if device.type == "cuda":
        gpu = device_name(device).replace(" ", "-").replace("/", "-")  # such as NVIDIA-H200
        os.environ.setdefault(CACHE_VARIABLE, str((folder / gpu).resolve()))


def user_folder() -> Path:
    """Return the folder of compiled code of a user, for programs that have no folder of features."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "fungi", "compiled")
