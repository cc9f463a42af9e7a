"""One maker per dataset: a few-kilobyte copy in the dataset's true on-disk format.

A module named after the dataset (`cub_200.py` for `cub-200`) has `make(data_dir, patch) -> Miniature`, and
`pack(data_dir, archives, patch)` where the dataset is prepared from archives.
"""

import importlib
import pkgutil
from types import ModuleType


def makers() -> dict[str, ModuleType]:
    """Dataset -> its maker."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "miniature"]
    return {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}
