"""One maker per dataset. A maker writes a miniature copy of a few kilobytes in the format of the dataset.

The module of a dataset (`cub_200.py` for `cub-200`) defines `make(data_dir, patch) -> Miniature`. If the dataset is
prepared from archives, it also defines `pack(data_dir, archives, patch)`.
"""

import importlib
import pkgutil
from typing import Any

COMMON = ("masks", "miniature", "tables", "waves")


def makers() -> dict[str, Any]:
    """Return dataset -> its maker."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in COMMON]
    modules = {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}
    return {**modules, **modules["esc-50"].OTHER_FOLDS}
