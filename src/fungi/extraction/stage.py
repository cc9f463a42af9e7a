"""Settings that the extraction stages share: data, backbone, computation and files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fungi.errors import FungiError
from fungi.runtime.cores import usable_cores
from fungi.settings import SEEDS, setting
from fungi.store.layout import EMBEDDINGS, Layout
from fungi.store.shard import Shard

if TYPE_CHECKING:
    from fungi.store.provenance import Provenance

WORKERS_PER_CORE = 8
"""Largest number of decoding workers per core. More would only wait for a core, and each needs 0.3 GB of memory."""


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """Settings of every extraction: data, backbone, computation and files."""

    dataset: str = setting(
        "digits",
        "dataset: a name of `fungi list datasets`, or your own: NAME=folder:PATH, NAME=split:PATH, NAME=hf:PATH",
        topic="data",
    )
    backbone: str = setting(
        "digits-vit",
        "backbone: a name of `fungi list backbones`, or your own: NAME=timm:ID, NAME=hf:PATH",
        aliases=("--model-type",),
        topic="model",
    )
    split: tuple[str, ...] = setting(
        (),
        "splits to extract; default: all splits of the dataset",
        aliases=("--splits",),
        affects="which_results",
        topic="data",
    )
    limit: int = setting(
        0,
        "for a first try: read at most N rows per split, evenly spaced; the files are of a dataset NAME-limitN; 0: all",
        within=(0, 10**9),
        topic="data",
    )
    skip_damaged: bool = setting(False, "leave out items that can't be read; the files list them", topic="data")
    root: Path = setting(
        Path("features"), "folder of all feature files", aliases=("--output-path",), affects="nothing", topic="files"
    )
    data_dir: Path = setting(
        Path("data"), "folder of the datasets", aliases=("--cache-dir",), affects="nothing", topic="data"
    )
    checkpoint: Path | None = setting(None, "file with weights to use instead of the published weights", topic="model")
    checkpoint_key: str = setting(
        "", "entry of the checkpoint with the weights, e.g. model_ema; default: the usual entry", topic="model"
    )
    random_init: bool = setting(False, "use random weights, drawn from the seed", topic="model")
    input_size: int = setting(
        0,
        "side of the input images in pixels, with position embeddings scaled to it; 0: the input size of the backbone",
        within=(0, 4096),
        topic="model",
    )
    profile: Literal["clean", "published"] = setting(
        "clean", "clean: the method of the paper; published: as in the published code", topic="features"
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", affects="nothing", topic="machine")
    dtype: str = setting(
        "auto",
        "dtype of the computation: auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16, float16",
        topic="machine",
    )
    embedding_precision: Literal["float32", "tf32"] = setting(
        "float32",
        "precision of float32 embeddings on a GPU: float32, or tf32 (faster; factors are rounded to ten bits)",
        topic="machine",
    )
    batch_size: int = setting(64, "number of images per batch", within=(1, 65_536), affects="nothing", topic="machine")
    views_per_forward: int = setting(
        0,
        "number of views that are encoded together; 0: 64 on a CPU, and as many as fit in memory on a GPU (up to 1024)",
        within=(0, 65_536),
        affects="nothing",
        topic="machine",
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto",
        "torch.compile: on, off, or auto (on a GPU, if there are at least 9 million forward passes)",
        affects="nothing",
        topic="machine",
    )
    num_workers: int = setting(
        -1,
        "number of processes that decode; -1: none on a CPU, and the number of cores less one on a GPU",
        within=(-1, 1024),
        affects="nothing",
        topic="machine",
    )
    seed: int = setting(42, "seed of heads, projection, negatives and views", within=SEEDS)
    shard: str = setting("1/1", "I/N: compute part I of N parts of the work", affects="nothing", topic="machine")
    block_size: int = setting(
        256,
        "number of rows per block; a killed run loses at most one block; all shards need the same number",
        within=(1, 2**20),
        affects="nothing",
        topic="machine",
    )
    overwrite: bool = setting(
        False, "replace feature files that were computed in another way", affects="nothing", topic="files"
    )
    accept_other_versions: bool = setting(
        False,
        "continue with blocks of other versions of the code or of packages; the file will name all versions",
        affects="nothing",
        topic="files",
    )
    wandb: bool = setting(
        False,
        "log progress and results to Weights & Biases, offline unless $WANDB_MODE is set",
        affects="nothing",
        topic="files",
    )

    def __post_init__(self) -> None:
        Shard.parse(self.shard)
        largest = WORKERS_PER_CORE * usable_cores()
        if self.num_workers > largest:
            raise FungiError(
                f"--num-workers {self.num_workers} is more than this machine can run: use at most {largest}"
                f" ({WORKERS_PER_CORE} per core)."
            )

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features to extract."""
        return (EMBEDDINGS,)

    def outputs(self) -> list[Path]:
        """Return the feature files of the splits in the settings; empty if the settings name no split."""
        dataset, backbone = (text.partition("=")[0] for text in (self.dataset, self.backbone))
        dataset = limited_name(dataset, self.limit)
        return [
            self.layout.features(feature, dataset, backbone, split) for split in self.split for feature in self.features
        ]

    def difference(self, path: Path) -> str:
        """Return how the settings of a feature file differ from these settings, or why the file can't be read.

        The message is empty if nothing differs, or if the file does not record its settings.
        """
        from fungi.store.reading import provenance_of

        try:
            provenance = provenance_of(path)
        except FungiError as error:
            return str(error)
        return self.difference_from(provenance) if provenance is not None else ""

    def difference_from(self, provenance: "Provenance") -> str:
        """Return a sentence with the first setting that differs from the provenance of a file, or an empty text."""
        identity = self._identity_settings(provenance.feature)
        as_in_file = json.loads(json.dumps(identity, default=str))  # provenances store paths as text, tuples as lists
        for name, value in as_in_file.items():
            if provenance.settings.get(name, value) != value:
                flag = f"--{name.replace('_', '-')}"
                return f"{provenance.feature} was computed with {flag} {provenance.settings[name]}, not {value}"
        return ""

    def _identity_settings(self, feature: str) -> dict[str, Any]:
        """Return the settings that change the values of a feature and are known before anything is loaded."""
        names: tuple[str, ...] = ("seed", "profile", "random_init", "checkpoint", "checkpoint_key", "input_size")
        if feature == EMBEDDINGS:
            names = (*names, "embedding_precision")
        return {name: getattr(self, name) for name in names}

    @property
    def layout(self) -> Layout:
        """Paths below the root."""
        return Layout(self.root)


def limited_name(name: str, limit: int) -> str:
    """Return the name of a dataset whose splits are reduced to `limit` rows; if `limit` is 0, return `name`."""
    return f"{name}-limit{limit}" if limit else name
