"""One maker per dataset: a few-kilobyte copy in the dataset's true on-disk format.

A module named after the dataset (`cub_200.py` for `cub-200`) has `make(data_dir, patch) -> Miniature`, and
`pack(data_dir, archives, patch)` where the dataset is prepared from archives.
"""

import importlib
import pkgutil
from typing import Any

COMMON = ("masks", "miniature", "tables", "waves")


def makers() -> dict[str, Any]:
    """Dataset -> its maker."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in COMMON]
    found = {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}
    return {**found, **found["esc-50"].OTHER_FOLDS}
