"""Settings that `fungi submit`, `fungi status` and `fungi prefetch` share: the declaration of the grid."""

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
    """Declaration of the grid by a file, by variables such as FUNGI_BACKBONES and FUNGI_DATASETS, or by these flags."""

    grid: Path | None = setting(
        None, "grid file in TOML (default: $FUNGI_GRID, or the last grid that was submitted below --root)"
    )
    backbones: tuple[str, ...] = setting(
        (), "backbones of the grid (default: $FUNGI_BACKBONES, or digits-vit)", topic="model"
    )
    datasets: tuple[str, ...] = setting((), "datasets of the grid (default: $FUNGI_DATASETS, or digits)", topic="data")
    splits: tuple[str, ...] = setting(
        (),
        "splits of the datasets (default: $FUNGI_SPLITS, or all splits)",
        flag="--split",
        aliases=("--splits",),
        topic="data",
    )
    root: Path | None = setting(
        None, "folder of features and results (default: $FUNGI_ROOT, or features)", topic="files"
    )
    data_dir: Path | None = setting(None, "folder of the datasets (default: $FUNGI_DATA_DIR, or data)", topic="data")
    shards: int | None = setting(
        None, "number of shards per split (default: $FUNGI_SHARDS, or shards of about an hour)", within=(1, MOST_SHARDS)
    )
    pack: int | None = setting(
        None,
        "number of shards that run at the same time in one job, with a GPU each (default: $FUNGI_PACK, or 1)",
        within=(1, 64),
    )
    gpu: str | None = setting(None, "type of GPU for which shards take about an hour (default: $FUNGI_GPU, or a100)")

    def declared(self, environ: Mapping[str, str] = os.environ) -> "Grid":
        """Return the declared grid with absolute folders. A grid that names no dataset gets the embedded digits."""
        from fungi.grid.declaration import GRID_FILE, declared_grid
        from fungi.grid.job_files import project_folder

        names = [field.name for field in fields(GridSettings) if field.name != "grid"]
        flags = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, ())}
        if self.grid is not None:
            # A path such as jobs/text/grid.toml is also accepted outside of the project.
            file_in_project = project_folder() / self.grid
            file = file_in_project if not self.grid.exists() and file_in_project.is_file() else self.grid
            environ = {**environ, GRID_FILE: str(file)}
        return declared_grid(environ, flags).absolute().with_datasets()

    def declared_or_last(self, environ: Mapping[str, str] = os.environ) -> "Grid":
        """Return the declared grid. If only the root is declared, return the last grid submitted below the root."""
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
                "are not counted here."
            )
        return stored
