"""Flags of linear probing: solver, number of passes, and rows on which lambda is chosen."""

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

    all_combinations: bool = setting(
        False, "score every combination instead of only the nested ones", affects="which_results", topic="features"
    )
    valid_split: str = setting(
        "valid",
        "split on which lambda is chosen; if it has no features, a fifth of the train split is used",
        word_in_file_name="choose-on-",
        topic="data",
    )
    valid_targets: Path | None = setting(
        None, "explicit files: validation labels, FILE or FILE:KEY", affects="which_results", topic="explicit"
    )
    valid_embeddings_datasets: tuple[Path, ...] = setting(
        (),
        "explicit files: embeddings of the validation split, FILE or FILE:KEY each",
        affects="which_results",
        topic="explicit",
    )
    valid_datasets: tuple[str, ...] = setting(
        (),
        "explicit files: gradients of the validation split, FILE or FILE:KEY each",
        affects="which_results",
        topic="explicit",
    )
    solver: Solver = setting(
        "cyanure",
        "cyanure: on the CPU, as published (lbfgs if cyanure is not installed); lbfgs: with torch, on CPU or GPU",
        word_in_file_name="",
    )
    tolerance: float = setting(
        1e-3, "relative duality gap at which the fit stops", aliases=("--tol",), within=(0, 1), word_in_file_name="tol"
    )
    compare_tolerances: tuple[float, ...] = setting(
        (),
        "further tolerances at which the final fit is reported",
        within=(0, 1),
        affects="which_results",
        word_in_file_name="tolerances",
    )
    max_epochs: int | None = setting(
        None,
        f"largest number of passes of the final fit; default: {EPOCHS} ({EPOCHS_OF_IMAGENET} for imagenet-1k)",
        aliases=("--max-iter",),
        within=(1, 10**7),
        word_in_file_name="epochs",
    )
    sweep_epochs: int | None = setting(
        None,
        "largest number of passes of each fit of the lambda sweep; default: as for the final fit",
        aliases=("--max-opt-iter",),
        within=(1, 10**7),
        word_in_file_name="sweep-epochs",
    )
    few_shot_validation: Literal["published", "cv", "none"] = setting(
        "published",
        "choice of lambda with --shots; published: on all validation rows (far more rows than shots); cv: by"
        " cross-validation within the shots; none: the middle of the grid",
        word_in_file_name="lambda-",
        topic="data",
    )
    seed: int = setting(42, "seed of the validation split and of the solver", within=SEEDS, word_in_file_name="seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver == "cyanure" and usual_solver() != "cyanure":
            logger.info(NO_CYANURE)
            object.__setattr__(self, "solver", "lbfgs")
        if self.tolerance <= 0 or any(value <= 0 for value in self.compare_tolerances):
            raise FungiError("--tolerance has to be larger than 0.")

    @property
    def compute_device(self) -> "torch.device":
        """The device of the fit; cyanure runs only on the CPU."""
        import torch

        return super().compute_device if self.solver == "lbfgs" else torch.device("cpu")

    @property
    def epochs(self) -> int:
        """The largest number of passes of the final fit."""
        return self.max_epochs or (EPOCHS_OF_IMAGENET if self.dataset_name == "imagenet-1k" else EPOCHS)

    def options(self, epochs: int) -> "LogisticOptions":
        """Return the options of the solver. epochs: largest number of passes over the rows."""
        from fungi.evaluators.logistic import LogisticOptions

        return LogisticOptions(solver=self.solver, tolerance=self.tolerance, max_epochs=epochs, seed=self.seed)

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the splits to open. The split `valid` is included if it has files."""
        if self.takes_files:
            has_valid = self._names_valid_files
        else:
            has_valid = Layout(root).embeddings(self.dataset_name, self.backbone_name, self.valid_split).is_file()
            if not has_valid and self.valid_split != "valid":
                raise self._no_valid_split(root)
        return ("train", "valid", "test") if has_valid else ("train", "test")

    def _no_valid_split(self, root: Path) -> FungiError:
        """Return the error for a validation split without features."""
        folder = Layout(root).embeddings(self.dataset_name, self.backbone_name, self.valid_split).parent
        splits = sorted(path.stem for path in folder.glob("*.h5"))
        return FungiError(
            f"--valid-split {self.valid_split}: there are no features of that split in {folder}."
            f"{did_you_mean(self.valid_split, splits)} It has: {', '.join(splits) or 'none'}. Without the flag, "
            "lambda is chosen on a fifth of the train rows."
        )

    @property
    def takes_files(self) -> bool:
        """Whether flags name explicit files."""
        return super().takes_files or self._names_valid_files

    @property
    def _names_valid_files(self) -> bool:
        """Whether flags name explicit files of the validation split."""
        return any((self.valid_targets, self.valid_embeddings_datasets, self.valid_datasets))

    @property
    def has_official_validation(self) -> bool:
        """Whether the dataset has an official validation split."""
        is_registered = not self.takes_files and self.dataset_name in DATASETS
        return is_registered and "valid" in DATASETS[self.dataset_name].splits
