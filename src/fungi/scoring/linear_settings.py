"""Flags of linear probing: how it is fitted, and on what lambda is chosen."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from fungi.data.base import DATASETS
from fungi.errors import FungiError, did_you_mean
from fungi.evaluators import NO_CYANURE, Solver, usual_solver
from fungi.runtime.log import logger
from fungi.scoring.feature_settings import FewShotSettings
from fungi.settings import SEEDS, setting
from fungi.store.layout import Layout

if TYPE_CHECKING:
    import torch

    from fungi.evaluators.logistic import LogisticOptions

EPOCHS, EPOCHS_OF_IMAGENET = 300, 30


@dataclass(frozen=True, kw_only=True)
class LinearSettings(FewShotSettings):
    """Flags of `train_linear_concat_grads.py`."""

    task: ClassVar[str] = "linear"
    computed_in: ClassVar[str] = "fungi.scoring.train_linear_concat_grads"

    all_combinations: bool = setting(False, "every combination, in place of the nested ones", decides="contents")
    valid_split: str = setting(
        "valid", "split to choose lambda on; a fifth of the train split where it is not there", mark="choose-on-"
    )
    valid_targets: Path | None = setting(
        None, "explicit files: validation labels, FILE or FILE:KEY", decides="contents"
    )
    valid_embeddings_datasets: tuple[Path, ...] = setting(
        (), "explicit files: embeddings of the validation split, FILE or FILE:KEY each", decides="contents"
    )
    valid_datasets: tuple[str, ...] = setting(
        (), "explicit files: gradients of the validation split, FILE or FILE:KEY each", decides="contents"
    )
    solver: Solver = setting(
        "cyanure", "cyanure: CPU, as published (lbfgs where it is not installed); lbfgs: torch, CPU or GPU", mark=""
    )
    tolerance: float = setting(1e-3, "relative duality gap to stop at", aliases=("--tol",), within=(0, 1), mark="tol")
    compare_tolerances: tuple[float, ...] = setting(
        (),
        "report what the final fit gives at these tolerances, too",
        within=(0, 1),
        decides="contents",
        mark="tolerances",
    )
    max_epochs: int | None = setting(
        None,
        f"passes over the data of the final fit; {EPOCHS} if absent ({EPOCHS_OF_IMAGENET} for imagenet-1k)",
        aliases=("--max-iter",),
        within=(1, 10**7),
        mark="epochs",
    )
    sweep_epochs: int | None = setting(
        None,
        "passes over the data of each fit of the lambda sweep; as for the final fit if absent",
        aliases=("--max-opt-iter",),
        within=(1, 10**7),
        mark="sweep-epochs",
    )
    few_shot_validation: Literal["published", "cv", "none"] = setting(
        "published",
        "few-shot: choose lambda on the whole validation part, far larger than the shots (published), by"
        " cross-validation within the shots (cv), or take the middle of the grid (none)",
        mark="lambda-",
    )
    seed: int = setting(42, "seed of the validation split and of the solver", within=SEEDS, mark="seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver == "cyanure" and usual_solver() != "cyanure":
            logger.info(NO_CYANURE)
            object.__setattr__(self, "solver", "lbfgs")
        if self.tolerance <= 0 or any(value <= 0 for value in self.compare_tolerances):
            raise FungiError("--tolerance has to be larger than 0.")

    @property
    def compute_device(self) -> "torch.device":
        """cyanure knows processors alone."""
        import torch

        return super().compute_device if self.solver == "lbfgs" else torch.device("cpu")

    @property
    def epochs(self) -> int:
        """Passes of the final fit."""
        return self.max_epochs or (EPOCHS_OF_IMAGENET if self.dataset_name == "imagenet-1k" else EPOCHS)

    def options(self, epochs: int) -> "LogisticOptions":
        """Return the options of the solver for so many passes."""
        from fungi.evaluators.logistic import LogisticOptions

        return LogisticOptions(solver=self.solver, tolerance=self.tolerance, max_epochs=epochs, seed=self.seed)

    def splits(self, root: Path) -> tuple[str, ...]:
        """Splits that there are files of."""
        if self.takes_files:
            there = self._names_valid_files
        else:
            there = Layout(root).embeddings(self.dataset_name, self.backbone_name, self.valid_split).is_file()
            if not there and self.valid_split != "valid":
                raise self._no_valid_split(root)
        return ("train", "valid", "test") if there else ("train", "test")

    def _no_valid_split(self, root: Path) -> FungiError:
        folder = Layout(root).embeddings(self.dataset_name, self.backbone_name, self.valid_split).parent
        there = sorted(path.stem for path in folder.glob("*.h5"))
        return FungiError(
            f"--valid-split {self.valid_split}: there are no features of that split in {folder}."
            f"{did_you_mean(self.valid_split, there)} It has: {', '.join(there) or 'none'}. Without the flag, "
            "lambda is chosen on a fifth of the train rows."
        )

    @property
    def takes_files(self) -> bool:
        """Whether files are given one by one."""
        return super().takes_files or self._names_valid_files

    @property
    def _names_valid_files(self) -> bool:
        return any((self.valid_targets, self.valid_embeddings_datasets, self.valid_datasets))

    @property
    def has_official_validation(self) -> bool:
        """Whether the dataset comes with a validation split."""
        known = not self.takes_files and self.dataset_name in DATASETS
        return known and "valid" in DATASETS[self.dataset_name].splits
