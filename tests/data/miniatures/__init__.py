"""Miniatures: copies of datasets with a few rows, in the format of the dataset. Each dataset has one module.

The module of a dataset (`cub_200.py` for `cub-200`) defines `make(data_dir, patch) -> Miniature`, which writes the
files and returns the expected content. If the dataset is prepared from archives, the module also defines
`pack(data_dir, archives, patch)`, which packs the files into archives. `patch` replaces checksums in libraries.
"""

import importlib
import pkgutil
from typing import Any

COMMON = ("masks", "miniature", "tables", "waves")


def miniatures() -> dict[str, Any]:
    """Return dataset -> module of its miniature."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in COMMON]
    modules = {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}
    return {**modules, **modules["esc-50"].OTHER_FOLDS}
