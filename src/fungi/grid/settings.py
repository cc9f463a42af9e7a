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
        None, "grid file in TOML; by default $FUNGI_GRID, or else the grid that was submitted last below --root"
    )
    backbones: tuple[str, ...] = setting(
        (), "backbones of the grid (by default $FUNGI_BACKBONES, or else digits-vit)", topic="model"
    )
    datasets: tuple[str, ...] = setting(
        (), "datasets of the grid (by default $FUNGI_DATASETS, or else digits)", topic="data"
    )
    splits: tuple[str, ...] = setting(
        (),
        "splits of the datasets (by default $FUNGI_SPLITS, or else all splits)",
        flag="--split",
        aliases=("--splits",),
        topic="data",
    )
    root: Path | None = setting(
        None, "folder of features and results (by default $FUNGI_ROOT, or else features)", topic="files"
    )
    data_dir: Path | None = setting(
        None, "folder of the datasets (by default $FUNGI_DATA_DIR, or else data)", topic="data"
    )
    shards: int | None = setting(
        None, "shards per split (by default $FUNGI_SHARDS, or else shards of about an hour)", within=(1, MOST_SHARDS)
    )
    pack: int | None = setting(
        None,
        "shards that run at the same time in one job, one GPU each (by default $FUNGI_PACK, or else 1)",
        within=(1, 64),
    )
    gpu: str | None = setting(None, "GPU type by which shards are sized (by default $FUNGI_GPU, or else a100)")

    def declared(self, environ: Mapping[str, str] = os.environ) -> "Grid":
        """Return the declared grid, with absolute folders, and with the embedded digits if it names no dataset."""
        from fungi.grid.declaration import GRID_FILE, declared_grid
        from fungi.grid.job_files import project_folder

        names = [known.name for known in fields(GridSettings) if known.name != "grid"]
        flags = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, ())}
        if self.grid is not None:
            shipped = project_folder() / self.grid  # such as jobs/text/grid.toml, named from any folder
            file = shipped if not self.grid.exists() and shipped.is_file() else self.grid
            environ = {**environ, GRID_FILE: str(file)}
        return declared_grid(environ, flags).absolute().with_datasets()

    def declared_or_last(self, environ: Mapping[str, str] = os.environ) -> "Grid":
        """Return the declared grid, or the grid that was submitted last if only the root is declared."""
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
