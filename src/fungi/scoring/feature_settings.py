"""Settings that all evaluations share: feature files, their combination, and the result file.

Feature files are selected by dataset and backbone below `--root`. Alternatively, the flags of the published code give
the path of each file (explicit files).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fungi.backbones.base import BACKBONES
from fungi.combine.protocol import DEFAULT_PCA_DIM, usual_pca_dim
from fungi.data.base import DATASETS
from fungi.errors import FungiError
from fungi.extraction.stage import StageSettings
from fungi.profiles import choose_profile
from fungi.results.naming import result_name
from fungi.results.settings import ResultSettings
from fungi.settings import SEEDS, like, setting

if TYPE_CHECKING:
    import torch

    from fungi.store.provenance import Provenance

DEFAULT_LAYER_KEY = "attn_proj"
UNNAMED = "unnamed"
"""Name of the dataset and the backbone of explicit files if no flag names them."""
_DEFAULT_DATASET, _DEFAULT_BACKBONE, _DEFAULT_ROOT = "digits", "digits-vit", (Path("features"),)


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(ResultSettings):
    """Flags of every evaluation of feature files.

    task: name of the task in result files.
    """

    task: ClassVar[str] = ""
    in_the_path: ClassVar[tuple[str, ...]] = ("dataset", "backbone", "shots")

    dataset: str = setting(_DEFAULT_DATASET, "dataset of the features", topic="data")
    backbone: str = setting(_DEFAULT_BACKBONE, "backbone of the features", topic="model")
    root: tuple[Path, ...] = setting(
        _DEFAULT_ROOT,
        "folder of feature files and results; several (one per extraction seed) give mean and standard deviation",
        affects="nothing",
        topic="files",
    )
    features: tuple[str, ...] = setting(
        (),
        "features to combine, e.g. embeddings kl dino; default: all features that have files",
        affects="which_results",
        word_in_file_name="",
        topic="features",
    )
    train_split: str = setting("train", "split to fit on", word_in_file_name="fit-on-", topic="data")
    test_split: str = setting("test", "split to score", aliases=("--split",), word_in_file_name="on-", topic="data")
    layer_key: str | None = setting(
        None,
        f"array of the feature files; default for gradients: {DEFAULT_LAYER_KEY}, or the only array",
        word_in_file_name="",
        topic="features",
    )
    pca_dim: int | None = setting(
        None,
        f"number of PCA components; default: depends on the backbone ({DEFAULT_PCA_DIM} for an unknown backbone)",
        within=(1, 10**6),
        word_in_file_name="pca",
        topic="features",
    )
    normalize: bool = setting(True, "L2-normalise the rows of gradients", topic="features")
    normalize_embeddings: bool = setting(True, "L2-normalise the rows of embeddings", topic="features")
    train_targets: Path | None = setting(
        None, "explicit files: train labels, FILE or FILE:KEY", affects="which_results", topic="explicit"
    )
    test_targets: Path | None = setting(
        None, "explicit files: test labels, FILE or FILE:KEY", affects="which_results", topic="explicit"
    )
    train_embeddings_datasets: tuple[Path, ...] = setting(
        (),
        "explicit files: embeddings of the train split (HDF5, .npy, .npz or .pt), FILE or FILE:KEY each",
        affects="which_results",
        topic="explicit",
    )
    test_embeddings_datasets: tuple[Path, ...] = setting(
        (),
        "explicit files: embeddings of the test split, FILE or FILE:KEY each",
        affects="which_results",
        topic="explicit",
    )
    train_datasets: tuple[str, ...] = setting(
        (),
        "explicit files: gradients of the train split, FILE or FILE:KEY each",
        affects="which_results",
        topic="explicit",
    )
    test_datasets: tuple[str, ...] = setting(
        (),
        "explicit files: gradients of the test split, FILE or FILE:KEY each",
        affects="which_results",
        topic="explicit",
    )
    score_fitted_rows: bool = setting(
        False,
        "score rows even if they are also train rows; the headings of tables then say so",
        word_in_file_name="fitted-rows",
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", affects="nothing", topic="machine")
    block_rows: int = setting(
        8192,
        "number of rows of the feature files to read at once",
        within=(1, 2**24),
        affects="nothing",
        topic="machine",
    )
    memory_gb: float = setting(
        4.0,
        "largest size in GiB of features to keep in memory; larger features are read block by block",
        within=(0, 2**14),
        affects="nothing",
        topic="machine",
    )
    wandb: bool = like(StageSettings, "wandb")

    def __post_init__(self) -> None:
        if not self.root:
            raise FungiError("--root needs at least one folder.")
        if len(set(self.root)) < len(self.root):
            raise FungiError("--root names the same folder twice. Name each folder once.")
        if self.takes_files and self.features:
            raise FungiError(
                "--features selects files below --root, not explicit files. Give only the explicit files to combine."
            )
        if self.takes_files and len(self.root) > 1:
            raise FungiError("explicit files belong to a single run. Give only one --root.")

    @property
    def dataset_name(self) -> str:
        """Return the folder name of the dataset. For explicit files this is the value of the flag, or `unnamed`."""
        return UNNAMED if self.takes_files and self.dataset == _DEFAULT_DATASET else super().dataset_name

    @property
    def backbone_name(self) -> str:
        """Return the folder name of the backbone. For explicit files this is the value of the flag, or `unnamed`."""
        return UNNAMED if self.takes_files and self.backbone == _DEFAULT_BACKBONE else super().backbone_name

    @property
    def about(self) -> str:
        """The input of the command, for the first line of the log."""
        if not self.takes_files:
            return f"dataset {self.dataset}, backbone {self.backbone}"
        paths = [*self.train_embeddings_datasets, *self.train_datasets]
        paths += [*self.test_embeddings_datasets, *self.test_datasets]
        return f"files {', '.join(map(str, paths[:4]))}" + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")

    @property
    def takes_files(self) -> bool:
        """Whether flags name explicit files."""
        flags = (self.train_targets, self.test_targets, self.train_embeddings_datasets, self.train_datasets)
        return any(flags) or bool(self.test_embeddings_datasets or self.test_datasets)

    @property
    def reduced_dim(self) -> int:
        """The number of PCA components."""
        if self.pca_dim is not None:
            return self.pca_dim
        return DEFAULT_PCA_DIM if self.takes_files else usual_pca_dim(self.dataset_name, self.backbone_name)

    @property
    def primary_metric(self) -> str:
        """The metric that the paper reports for the dataset; accuracy for all other datasets."""
        is_registered = not self.takes_files and self.dataset_name in DATASETS
        return DATASETS[self.dataset_name].metric if is_registered else "accuracy"

    @property
    def compute_device(self) -> "torch.device":
        """The device on which features are reduced and scored."""
        from fungi.runtime.device import choose_device

        return choose_device(self.device)

    @property
    def task_name(self) -> str:
        """Return the name of the task in result files."""
        return self.task

    @property
    def results_root(self) -> Path:
        """Return the root, or the common folder of several roots."""
        return self.root[0] if len(self.root) == 1 else _common_folder(self.root)

    def result_path(self, task: str | None = None) -> Path:
        """Return the result file of a task. For explicit files, its folder is `<root>/results` or `results`."""
        if self.output is None and self.takes_files:
            folder = Path("results") if self.root == _DEFAULT_ROOT else self.root[0] / "results"
            return folder / f"{result_name(task or self.task_name, self, self.in_the_path)}.json"
        return super().result_path(task)

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the content of the result file, with the number of components, as JSON."""
        return super().identity() | {"pca_dim": self.reduced_dim}

    def unusual(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults. `pca_dim` is omitted, because headings always show it."""
        return {name: value for name, value in super().unusual().items() if name != "pca_dim"}


@dataclass(frozen=True, kw_only=True)
class FewShotSettings(FeatureSettings):
    """Flags of the evaluations that fit on labels."""

    shots: int | None = setting(
        None, "number of train examples per class; default: all", within=(1, 10**6), topic="data"
    )
    train_size: float | None = setting(
        None,
        "share of the train examples of each class (0.1), or number of examples per class (5), as with --shots",
        within=(0, 10**6),
        word_in_file_name="share",
        topic="data",
    )
    few_shot_seed: tuple[int, ...] = setting(
        (),
        "seeds to draw the shots with, one run per seed; default: the first shots in file order",
        within=SEEDS,
        word_in_file_name="draws",
        topic="data",
    )
    few_shot_sampling: Literal["balanced", "stratified"] | None = setting(
        None,
        "balanced: the same number of shots of each class; stratified: class proportions of the train split; default:"
        " stratified if the features are of texts and have the profile published, otherwise balanced",
        word_in_file_name="",
        topic="data",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_size is not None:
            self._shots_from_train_size(self.train_size)
        if len(set(self.few_shot_seed)) < len(self.few_shot_seed):
            raise FungiError("--few-shot-seed names a seed twice. Name each seed once.")
        flags_of_shots = (("sampling", self.few_shot_sampling == "stratified"), ("seed", self.few_shot_seed))
        for flag, is_set in flags_of_shots:
            if is_set and not self.uses_shots:
                raise FungiError(f"--few-shot-{flag} needs a number of shots: add --shots.")

    def _shots_from_train_size(self, size: float) -> None:
        """Set `shots` to --train-size if it is a whole number."""
        if self.shots is not None:
            raise FungiError("--train-size and --shots both set the number of train rows: give one of them.")
        if size >= 1 and size.is_integer():
            object.__setattr__(self, "shots", int(size))
            object.__setattr__(self, "train_size", None)
        elif not 0 < size < 1:
            raise FungiError(
                f"--train-size {size:g} is neither a share (above 0 and below 1) nor a whole number of rows per class."
            )

    @property
    def uses_shots(self) -> bool:
        """Whether only some train rows are fitted on."""
        return self.shots is not None or self.train_size is not None

    @property
    def train_rows_text(self) -> str:
        """A description of the train rows to fit on: `all train rows`, `5-shot`."""
        if self.train_size is not None:
            return f"{100 * self.train_size:g} % of the train rows"
        return "all train rows" if self.shots is None else f"{self.shots}-shot"

    def few_shot_seeds(self) -> tuple[int | None, ...]:
        """Return the seeds of the few-shot draws, or a single None if the shots are not drawn at random."""
        return self.few_shot_seed or (None,)

    def rows(
        self, targets: Any, seed: int | None, provenances: "Sequence[Provenance]", class_names: Sequence[str] = ()
    ) -> Any:
        """Return the train rows to fit on, in ascending order, or None for all rows.

        seed: seed of the few-shot draw; None for the first rows. provenances: provenances of the features.
        class_names: names of the labels, for the error message if a class is too small.
        """
        from fungi.combine.few_shot import few_shot_rows, stratified_rows

        size = self.train_size if self.shots is None else self.shots
        if size is None:
            return None
        if self.resolved_for(provenances).few_shot_sampling == "stratified":
            return stratified_rows(targets, size, seed)
        return few_shot_rows(targets, size, seed, class_names)

    def resolved_for(self, provenances: "Sequence[Provenance]") -> "FewShotSettings":
        """Return the settings. If no flag sets the few-shot sampling, the profile determines it (spec text 6.1)."""
        if self.few_shot_sampling is not None:
            return self
        is_stratified = self.uses_shots and any(
            choose_profile(provenance.profile).stratified_texts and _modality(provenance) == "text"
            for provenance in provenances
        )
        return replace(self, few_shot_sampling="stratified" if is_stratified else "balanced")

    def identity(self) -> dict[str, Any]:
        """Return the settings of the identity, without few-shot sampling if `resolved_for` has not set it."""
        values = super().identity()
        return {name: value for name, value in values.items() if (name, value) != ("few_shot_sampling", None)}

    def unusual(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults. Balanced sampling is the default."""
        values = super().unusual()
        return {name: value for name, value in values.items() if (name, value) != ("few_shot_sampling", "balanced")}

    @property
    def task_name(self) -> str:
        """The task with its number of shots: `knn`, `knn-5shot`."""
        return self.task if self.shots is None else f"{self.task}-{self.shots}shot"


def _modality(provenance: "Provenance") -> str:
    """Return the modality of the dataset or backbone of the features, or an empty text if both are unknown."""
    entries: tuple[tuple[Any, str], ...] = ((DATASETS, provenance.dataset), (BACKBONES, provenance.backbone))
    return next((registry[name].modality for registry, name in entries if name in registry), "")


def _common_folder(roots: Sequence[Path]) -> Path:
    """Return the deepest folder that contains all roots. Raises FungiError if only the file system's root does."""
    # `commonpath` refuses absolute paths together with relative paths.
    has_both_kinds = any(root.is_absolute() != roots[0].is_absolute() for root in roots)
    common = Path(os.path.commonpath([root.absolute() for root in roots] if has_both_kinds else roots))
    if common == Path(common.anchor) and common.is_absolute():
        raise FungiError("the --root folders have no common folder for the result. Give a file with --output.")
    return common
