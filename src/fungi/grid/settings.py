"""What the commands that look after the grid share: where the grid is declared."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from fungi.runtime.log import logger
from fungi.settings import setting
from fungi.store.shard import MOST_SHARDS

if TYPE_CHECKING:
    from fungi.grid.declaration import Grid


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

    def declared(self, environ: Mapping[str, str] = os.environ) -> "Grid":
        """The grid, with absolute folders; the digits where no dataset is named."""
        from fungi.grid.declaration import GRID_FILE, declared_grid
        from fungi.grid.job_files import project_folder

        names = [known.name for known in fields(GridSettings) if known.name != "grid"]
        given = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, ())}
        if self.grid is not None:
            shipped = project_folder() / self.grid  # as jobs/text/grid.toml, from any folder
            file = shipped if not self.grid.exists() and shipped.is_file() else self.grid
            environ = {**environ, GRID_FILE: str(file)}
        return declared_grid(environ, given).absolute().with_datasets()

    def declared_or_last(self, environ: Mapping[str, str] = os.environ) -> "Grid":
        """The grid; where nothing but its root is told, the one that was submitted last."""
        from fungi.grid.declaration import GRID_FILE, LAST_GRID, Grid, declared_grid
        from fungi.grid.records import same_folder

        grid = self.declared(environ)
        last = grid.root / LAST_GRID
        if not last.exists() or grid != Grid(root=grid.root).absolute().with_datasets():
            return grid
        stored = declared_grid({GRID_FILE: str(last)}).absolute()
        if stored.submitted_below and not same_folder(Path(stored.submitted_below), stored.root):
            logger.warning(
                f"{stored.root} was copied or moved from {stored.submitted_below}: jobs that were submitted there "
                "don't count here."
            )
        return stored
