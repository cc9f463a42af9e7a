"""The name and the home folder of the user of this process. In a container, a user may have no name and no folder."""

import getpass
import os
from pathlib import Path


def ensure_user_name() -> None:
    """Set the variable USER if the user has no name. Libraries such as torch and wandb ask for the name."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user{os.getuid()}"


def cache_folder() -> Path | None:
    """Return the folder of the user's caches; None if the user has no home folder."""
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None
