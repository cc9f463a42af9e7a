"""Settings that all ablations share."""

from dataclasses import dataclass

from fungi.errors import FungiError
from fungi.extraction.gradient_settings import GradientSettings
from fungi.settings import SEEDS, setting


@dataclass(frozen=True, kw_only=True)
class BenchSettings(GradientSettings):
    """Flags that all ablations share, besides those of the extraction."""

    k: int = setting(20, "neighbours that vote", within=(1, 10**6))
    pca_dim: int = setting(0, "components of the PCA before kNN; 0 picks the backbone's", within=(0, 65_536))
    rows: int = setting(0, "use only this many rows of each split, evenly spread; 0 uses all", within=(0, 10**9))
    seeds: tuple[int, ...] = setting(
        (), "seeds to repeat over (mean and deviation); --seed alone if none is given", within=SEEDS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split:
            raise FungiError("ablations fit on the train split and score the test split: leave out --split.")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Seeds to repeat over."""
        return self.seeds or (self.seed,)
