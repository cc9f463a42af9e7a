"""Settings that all ablations share."""

from dataclasses import dataclass

from fungi.errors import FungiError
from fungi.extraction.gradient_settings import GradientSettings
from fungi.settings import SEEDS, require_different_values, setting


@dataclass(frozen=True, kw_only=True)
class VariationSettings(GradientSettings):
    """Flags that all ablations share: the flags of the extraction and the flags of kNN."""

    k: int = setting(20, "number of neighbours that vote", aliases=("--neighbours",), within=(1, 10**6))
    pca_dim: int = setting(
        0, "number of PCA components before kNN; 0: the default of the backbone", within=(0, 65_536), topic="features"
    )
    rows: int = setting(0, "number of rows of each split, evenly spread; 0: all rows", within=(0, 10**9))
    seed: int = setting(42, "seed of a single run", flag="", within=SEEDS)
    seeds: tuple[int, ...] = setting(
        (),
        "seeds of heads, projection, negatives and views; several seeds give mean and standard deviation; default: 42",
        flag="--seed",
        aliases=("--seeds",),
        within=SEEDS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_different_values(self, "seeds")
        if len(self.seeds) == 1:
            object.__setattr__(self, "seed", self.seeds[0])
            object.__setattr__(self, "seeds", ())
        if self.split:
            raise FungiError("ablations always use the train and test splits: remove --split.")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the repetitions of the ablation."""
        return self.seeds or (self.seed,)
