"""What the commands that look after the grid share: where the grid is declared."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path

from fungi.errors import FungiError
from fungi.grid.declaration import GRID_FILE, Grid, declared_grid
from fungi.grid.records import same_folder
from fungi.runtime.files import written_whole
from fungi.runtime.log import logger
from fungi.settings import setting
from fungi.store.shard import MOST_SHARDS

LAST_GRID = Path("progress") / "grid.toml"
"""Below the root: the grid that was submitted last."""


def store_grid(grid: Grid) -> Path:
    """Write the grid down for jobs to read; named by its content, so that another submission does not change it.

    Places below the root are told from where the file lies, so that a root that is moved or copied is its own.
    """
    code = str(Path(grid.code).relative_to(grid.root)) if grid.code else ""
    text = replace(grid, code=code, submitted_below=str(grid.root)).to_toml()
    path = grid.root / "progress" / f"grid-{sha256(text.encode()).hexdigest()[:12]}.toml"
    with written_whole(path) as temporary:
        temporary.write_text(text)
    return path


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """The grid: a file, the variables FUNGI_BACKBONES, FUNGI_DATASETS, ..., or these flags."""

    grid: Path | None = setting(
        None, "grid file (TOML); $FUNGI_GRID if absent, and else the grid that was last submitted below --root"
    )
    backbones: tuple[str, ...] = setting((), "backbones of the grid ($FUNGI_BACKBONES; digits-vit)")
    datasets: tuple[str, ...] = setting((), "datasets of the grid ($FUNGI_DATASETS; digits)")
    splits: tuple[str, ...] = setting((), "splits ($FUNGI_SPLITS; all that a dataset has)")
    root: Path | None = setting(None, "folder of all feature files ($FUNGI_ROOT; features)")
    data_dir: Path | None = setting(None, "folder of the datasets ($FUNGI_DATA_DIR; data)")
    shards: int | None = setting(None, "parts per split ($FUNGI_SHARDS; about an hour each)", within=(1, MOST_SHARDS))
    pack: int | None = setting(
        None, "shards side by side in one job, each with a GPU of its own ($FUNGI_PACK; 1)", within=(1, 64)
    )
    gpu: str | None = setting(None, "GPU that shards are sized for ($FUNGI_GPU; a100)")

    def declared(self, environ: Mapping[str, str] = os.environ) -> Grid:
        """The grid, with absolute folders."""
        names = [known.name for known in fields(GridSettings) if known.name != "grid"]
        given = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, ())}
        if self.grid is not None:
            environ = {**environ, GRID_FILE: str(self.grid)}
        return _digits_unless_named(declared_grid(environ, given).absolute())

    def declared_or_last(self, environ: Mapping[str, str] = os.environ) -> Grid:
        """The grid; where nothing but its root is told, the one that was submitted last."""
        grid = self.declared(environ)
        last = grid.root / LAST_GRID
        if not last.exists() or grid != _digits_unless_named(Grid(root=grid.root).absolute()):
            return grid
        stored = declared_grid({GRID_FILE: str(last)}).absolute()
        if stored.submitted_below and not same_folder(Path(stored.submitted_below), stored.root):
            logger.warning(
                f"{stored.root} was copied or moved from {stored.submitted_below}: jobs that were submitted there "
                "don't count here."
            )
        return stored


def existing_root(grid: Grid) -> Grid:
    """The grid; FungiError where its root is not there: nothing was ever done below it."""
    if not grid.root.is_dir():
        raise FungiError(f"there is no folder {grid.root}: nothing was submitted or run below it. Check --root.")
    return grid


def _digits_unless_named(grid: Grid) -> Grid:
    return grid if grid.datasets else replace(grid, datasets=("digits",))
