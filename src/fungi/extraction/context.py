"""What a stage has at hand once its settings are resolved: dataset, backbone, device."""

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


class OpenedSplits:
    """Splits that were opened, each once: listing a million files takes minutes.

    They are kept by all that decides them, so that contexts whose dataset or data directory is replaced never get
    the rows of another.
    """

    def __init__(self) -> None:
        self._opened: dict[tuple[Callable[[Path, str], Samples], Path, str], Samples] = {}

    def __call__(self, dataset: DatasetSpec, data_dir: Path, split: str) -> Samples:
        """Return the samples of a split; FungiError if the dataset does not have it."""
        key = (dataset.open, data_dir, split)
        if key not in self._opened:
            self._opened[key] = dataset.open_split(split, data_dir)
        return self._opened[key]


@dataclass(frozen=True)
class StageContext:
    """What a stage has at hand once its settings are resolved."""

    settings: StageSettings
    dataset: DatasetSpec
    backbone: Backbone
    device: torch.device
    dtype: torch.dtype
    opened: "OpenedSplits"

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits to extract."""
        return self.settings.split or self.dataset.splits

    @property
    def num_workers(self) -> int:
        """Processes that decode."""
        if self.settings.num_workers >= 0:
            return self.settings.num_workers
        return 0 if self.device.type == "cpu" else max(1, usable_cores() - 1)

    def open_split(self, split: str) -> Samples:
        """Return the samples of a split, opened once; FungiError if the dataset does not have it."""
        return self.opened(self.dataset, self.settings.data_dir, split)

    def skipped_samples(self, split: str) -> list[str]:
        """Return the ids of the items of a split that were left out as damaged."""
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


def resolve_context(settings: StageSettings, dtype_name: str | None = None, *, masks: bool = False) -> StageContext:
    """Resolve names, open the splits, load the backbone onto its device.

    Splits are opened once, and before the backbone, so that missing data is said before a large model loads.
    dtype_name: in place of the settings' own; masks: whether the stage works with classes of pixels. FungiError, in
    other stages, for a dataset whose images have no class.
    """
    keep_freed_memory()
    device = choose_device(settings.device)
    dtype = choose_dtype(dtype_name or settings.dtype, device)
    profile = choose_profile(settings.profile)
    dataset = resolve_dataset(settings.dataset, settings.data_dir)
    if dataset.masks is not None and not masks:
        raise FungiError(
            f"the images of dataset {dataset.name!r} have masks, and no class of their own. Use fungi segment for it."
        )
    if profile.published_labels:
        dataset = dataset.as_published()
    dataset = with_chosen_rows(dataset, settings.limit, skip_damaged=settings.skip_damaged)
    spec = resolve_backbone(settings.backbone)
    if spec.modality != dataset.modality:
        raise FungiError(
            f"backbone {spec.name!r} takes {spec.modality}, dataset {dataset.name!r} is {dataset.modality}. "
            "`fungi list` names what goes together."
        )
    opened = OpenedSplits()
    for split in settings.split or dataset.splits:
        opened(dataset, settings.data_dir, split)
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
        backbone.input.tokenizer.get()  # before any work: it may be missing, or may not fit the model
    if dataset.input_options:
        backbone = replace(backbone, input=replace(backbone.input, **dataset.input_options))
    model: Any = backbone.model.to(device)
    if device.type == "cuda" and is_convolutional(model):
        model.to(memory_format=torch.channels_last)  # what cuDNN's half-precision kernels are made for
    logger.info(f"{spec.label} on {device}, {str(dtype).removeprefix('torch.')}; {backbone.weights_source}")
    if spec.flops:  # a user's own: what was found out about it
        logger.info(f"{spec.name}: {spec.notes}")
    return StageContext(settings, dataset, backbone, device, dtype, opened)
