"""Load the dataset, the backbone and the device that the settings of a stage name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fungi.backbones.base import resolve_backbone
from fungi.backbones.encoders import is_convolutional
from fungi.backbones.loading import Backbone, load_backbone
from fungi.data.base import DatasetSpec, Samples, resolve_dataset
from fungi.errors import FungiError
from fungi.extraction.chosen_rows import ChosenRows, with_chosen_rows
from fungi.extraction.stage import StageSettings
from fungi.profiles import choose_profile
from fungi.runtime.cores import usable_cores
from fungi.runtime.device import choose_device, choose_dtype, keep_freed_memory
from fungi.runtime.log import logger
from fungi.views.text import TextInput


class SplitCache:
    """Cache of opened splits. A split is opened only once, because listing a million files takes minutes.

    The key is (function that opens the dataset, data directory, split), so different datasets or data directories never
    share rows.
    """

    def __init__(self) -> None:
        self._samples: dict[tuple[Callable[[Path, str], Samples], Path, str], Samples] = {}

    def __call__(self, dataset: DatasetSpec, data_dir: Path, split: str) -> Samples:
        """Return the samples of a split. Raises FungiError if the dataset has no such split."""
        key = (dataset.open, data_dir, split)
        if key not in self._samples:
            self._samples[key] = dataset.open_split(split, data_dir)
        return self._samples[key]


@dataclass(frozen=True)
class StageContext:
    """Settings of a stage, and the dataset, backbone and device that they name. dtype: dtype of the computation."""

    settings: StageSettings
    dataset: DatasetSpec
    backbone: Backbone
    device: torch.device
    dtype: torch.dtype
    split_cache: SplitCache

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits to extract."""
        return self.settings.split or self.dataset.splits

    @property
    def num_workers(self) -> int:
        """Number of processes that decode; the default is 0 on a CPU, and the number of cores less one on a GPU."""
        if self.settings.num_workers >= 0:
            return self.settings.num_workers
        return 0 if self.device.type == "cpu" else max(1, usable_cores() - 1)

    def open_split(self, split: str) -> Samples:
        """Return the samples of a split. Raises FungiError if the dataset has no such split."""
        return self.split_cache(self.dataset, self.settings.data_dir, split)

    def skipped_samples(self, split: str) -> list[str]:
        """Return the ids of the damaged items of a split that were left out."""
        return self.dataset.open.skipped.get(split, []) if isinstance(self.dataset.open, ChosenRows) else []

    def base_provenance(self, split: str, samples: Samples) -> dict[str, Any]:
        """Return the fields of a provenance that do not depend on the feature."""
        return {
            "dataset": self.dataset.name,
            "split": split,
            "rows": len(samples),
            "dataset_fingerprint": samples.fingerprint(),
            "skipped_samples": self.skipped_samples(split),
            "backbone": self.backbone.spec.name,
            "weights_hash": self.backbone.weights_hash,
            "weights_source": self.backbone.weights_source,
            "input": repr(self.backbone.input),
            "profile": self.settings.profile,
            "seed": self.settings.seed,
            "device": self.device.type,
        }


def resolve_context(
    settings: StageSettings, dtype_name: str | None = None, *, uses_masks: bool = False
) -> StageContext:
    """Resolve the names in the settings, open the splits and load the backbone onto the device.

    The splits are opened first, so that an error about missing data comes before a large model is loaded.

    dtype_name: dtype to use instead of the dtype in the settings.
    uses_masks: whether the stage uses the masks of the images (classes of pixels).

    Raises FungiError for a dataset with masks if the stage does not use masks, because the images have no class.
    """
    keep_freed_memory()
    device = choose_device(settings.device)
    dtype = choose_dtype(dtype_name or settings.dtype, device)
    profile = choose_profile(settings.profile)
    dataset = resolve_dataset(settings.dataset, settings.data_dir)
    if dataset.masks is not None and not uses_masks:
        raise FungiError(f"the images of dataset {dataset.name!r} have masks, but no class. Use fungi segment for it.")
    if profile.published_labels:
        dataset = dataset.as_published()
    dataset = with_chosen_rows(dataset, settings.limit, skip_damaged=settings.skip_damaged)
    spec = resolve_backbone(settings.backbone)
    if spec.modality != dataset.modality:
        raise FungiError(
            f"backbone {spec.name!r} takes {spec.modality}, dataset {dataset.name!r} is {dataset.modality}. "
            "`fungi list` prints the modality of each backbone and dataset."
        )
    split_cache = SplitCache()
    for split in settings.split or dataset.splits:
        split_cache(dataset, settings.data_dir, split)
    backbone = load_backbone(
        settings.backbone,
        checkpoint=settings.checkpoint,
        checkpoint_key=settings.checkpoint_key,
        random_init=settings.random_init,
        seed=settings.seed,
        profile=profile,
        input_size=settings.input_size,
    )
    if isinstance(backbone.input, TextInput):
        backbone.input.tokenizer.get()  # raises an error early if the tokenizer is missing or does not fit the model
    if dataset.input_options:
        backbone = replace(backbone, input=replace(backbone.input, **dataset.input_options))
    model: Any = backbone.model.to(device)
    if device.type == "cuda" and is_convolutional(model):
        model.to(memory_format=torch.channels_last)  # the format for which cuDNN has fast half-precision kernels
    logger.info(f"{spec.label} on {device}, {str(dtype).removeprefix('torch.')}; {backbone.weights_source}")
    if spec.flops:
        logger.info(f"{spec.name}: {spec.notes}")
    return StageContext(settings, dataset, backbone, device, dtype, split_cache)
