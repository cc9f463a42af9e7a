"""Settings that the extraction stages share: what to read, with which backbone, where to write."""

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
"""Largest number of decoding workers per core. More of them wait for a core, and each needs about 0.3 GB of memory."""


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
        "splits to extract; all that the dataset has if none is named",
        aliases=("--splits",),
        decides="contents",
        topic="data",
    )
    limit: int = setting(
        0,
        "at most so many rows of each split, evenly spaced, for a first try; 0: all; the files belong to NAME-limitN",
        within=(0, 10**9),
        topic="data",
    )
    skip_damaged: bool = setting(False, "leave out items that can't be read; the files record which", topic="data")
    root: Path = setting(
        Path("features"), "folder of all feature files", aliases=("--output-path",), decides="nothing", topic="files"
    )
    data_dir: Path = setting(
        Path("data"), "folder of the datasets", aliases=("--cache-dir",), decides="nothing", topic="data"
    )
    checkpoint: Path | None = setting(None, "weights from this file in place of the published ones", topic="model")
    checkpoint_key: str = setting(
        "", "entry of the checkpoint that holds the weights, e.g. model_ema; the usual entry if empty", topic="model"
    )
    random_init: bool = setting(False, "random weights, drawn from the seed", topic="model")
    input_size: int = setting(
        0,
        "side in pixels of the backbone's input; 0 is its own; positions are scaled for another",
        within=(0, 4096),
        topic="model",
    )
    profile: Literal["clean", "published"] = setting(
        "clean", "clean: what the method says; published: what its code did", topic="features"
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", decides="nothing", topic="machine")
    dtype: str = setting(
        "auto",
        "compute dtype: auto (bfloat16 on a GPU, float32 elsewhere), float32, bfloat16, float16",
        topic="machine",
    )
    embedding_precision: Literal["float32", "tf32"] = setting(
        "float32",
        "float32 products of embeddings on a GPU: float32 (all digits) or tf32 (ten bits of each factor, faster)",
        topic="machine",
    )
    batch_size: int = setting(
        64, "images that are decoded and projected together", within=(1, 65_536), decides="nothing", topic="machine"
    )
    views_per_forward: int = setting(
        0,
        "views encoded at once; 0 picks 64 on a CPU, and on a GPU what its free memory holds, at most 1024",
        within=(0, 65_536),
        decides="nothing",
        topic="machine",
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto",
        "torch.compile: auto (on a GPU, from 9 million forwards on, where it pays), on, off",
        decides="nothing",
        topic="machine",
    )
    num_workers: int = setting(
        -1,
        "processes that decode; -1 picks 0 on a CPU, and one per core but one on a GPU",
        within=(-1, 1024),
        decides="nothing",
        topic="machine",
    )
    seed: int = setting(42, "seed of heads, projection, negatives and views", within=SEEDS)
    shard: str = setting("1/1", "do the I-th of N parts of the work: I/N", decides="nothing", topic="machine")
    block_size: int = setting(
        256,
        "rows per block, the unit that is resumed; the same for all shards",
        within=(1, 2**20),
        decides="nothing",
        topic="machine",
    )
    overwrite: bool = setting(
        False, "replace feature files that were made in another way", decides="nothing", topic="files"
    )
    accept_other_versions: bool = setting(
        False,
        "go on with blocks that another version of the code or of packages made; the file will name both",
        decides="nothing",
        topic="files",
    )
    wandb: bool = setting(
        False,
        "progress and results to Weights & Biases, offline unless $WANDB_MODE says otherwise",
        decides="nothing",
        topic="files",
    )

    def __post_init__(self) -> None:
        Shard.parse(self.shard)
        most = WORKERS_PER_CORE * usable_cores()
        if self.num_workers > most:
            raise FungiError(
                f"--num-workers {self.num_workers} is more than this machine can bear: at most {most}"
                f" ({WORKERS_PER_CORE} per core)."
            )

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that are made."""
        return (EMBEDDINGS,)

    def outputs(self) -> list[Path]:
        """Return the feature files of the splits that are named."""
        dataset, backbone = (text.partition("=")[0] for text in (self.dataset, self.backbone))
        dataset = limited_name(dataset, self.limit)
        return [
            self.layout.features(feature, dataset, backbone, split) for split in self.split for feature in self.features
        ]

    def difference(self, path: Path) -> str:
        """Return how the settings of a feature file differ, or why it cannot be read; empty if neither is known.

        A file without provenance does not tell its settings, so that the text is empty for it too.
        """
        from fungi.store.reading import provenance_of

        try:
            provenance = provenance_of(path)
        except FungiError as error:
            return str(error)
        return self.differs_from(provenance) if provenance is not None else ""

    def differs_from(self, provenance: "Provenance") -> str:
        """Return the setting in which the file of this provenance differs; empty if none does."""
        for name, value in json.loads(json.dumps(self._deciding(provenance.feature), default=str)).items():
            if provenance.settings.get(name, value) != value:
                flag = f"--{name.replace('_', '-')}"
                return f"{provenance.feature} was made with {flag} {provenance.settings[name]}, not {value}"
        return ""

    def _deciding(self, feature: str) -> dict[str, Any]:
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
    """Return the name of a dataset whose splits are reduced to `limit` rows; the same name if `limit` is 0."""
    return f"{name}-limit{limit}" if limit else name
