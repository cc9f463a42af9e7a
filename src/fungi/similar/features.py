"""Compute embeddings and gradients of pictures, with the library's wrapper around a named backbone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from fungi.backbones.base import resolve_backbone
from fungi.backbones.loading import load_backbone
from fungi.config import DINOConfig, KLConfig, SimCLRConfig
from fungi.data.formats.image_files import ImageFiles
from fungi.errors import FungiError, counted
from fungi.runtime.device import choose_device
from fungi.runtime.log import logger
from fungi.similar.settings import SimilarSettings
from fungi.views.image_sets import as_samples
from fungi.wrapper import FUNGIWrapper

WRAPPER = "wrapper"
PICTURES_PER_WRITE = 256
"""Number of pictures after which the index is written. A killed run loses at most these pictures."""


def compute_features(
    settings: SimilarSettings, pictures: Sequence[Path], new: Sequence[Path]
) -> Iterator[tuple[Sequence[Path], Float32[np.ndarray, "m f"], dict[str, int]]]:
    """Yield groups of pictures, their features, and the width of each part of the features by name.

    pictures: all pictures of the folder. SimCLR's negatives are drawn from these pictures and saved with the index, so
        that later pictures are compared with the same negatives.
    new: pictures without features.
    """
    wrapper = _wrapper(settings, pictures)
    logger.info(f"{counted(len(new), 'picture')} not yet in the index: {wrapper!r}")
    group: list[np.ndarray] = []
    done = 0
    for features in wrapper.batches(as_samples(_Pictures(new)), settings.batch_size):
        group.append(features.numpy())
        count = sum(map(len, group))
        if count >= PICTURES_PER_WRITE or done + count == len(new):
            yield new[done : done + count], np.concatenate(group), wrapper.parts
            group, done = [], done + count


def _wrapper(settings: SimilarSettings, pictures: Sequence[Path]) -> FUNGIWrapper:
    """Return the wrapper that is saved with the index. If there is none, create a wrapper, and save it."""
    spec, device = resolve_backbone(settings.backbone), choose_device(settings.device)
    if spec.modality != "vision":
        raise FungiError(f"backbone {spec.name!r} takes {spec.modality}, not pictures.")
    backbone = load_backbone(settings.backbone, checkpoint=settings.checkpoint, checkpoint_key=settings.checkpoint_key)
    if spec.notes:
        logger.info(f"{spec.name}: {spec.notes}")
    folder = settings.index_folder / WRAPPER
    if folder.is_dir():
        return FUNGIWrapper.load(folder, backbone.model, device)
    configs: dict[str, Any] = {
        "kl": KLConfig(),
        "dino": DINOConfig(),
        "simclr": SimCLRConfig(comparison_batch_size=min(256, len(pictures))),
    }
    wrapper = FUNGIWrapper(
        backbone.model,
        spec.layer,
        device,
        input_dim=backbone.input.size,
        image_input=backbone.input,
        extractor_configs=[configs[name] for name in settings.objective],
        include_embeddings=True,
        seed=settings.seed,
    )
    wrapper.setup(_Pictures(pictures))
    wrapper.save(folder)
    return wrapper


class _Pictures:
    """A collection of image files, which are decoded at access."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._load = ImageFiles(Path("/"), [str(path) for path in paths], as_displayed=True)

    def __len__(self) -> int:
        return len(self._load.paths)

    def __getitem__(self, row: int) -> Any:
        return self._load(row)
