"""Time of the published library over ours, for users who have its checkout: `benchmark.py gpu --peer FOLDER`."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks._rounds import alternate, ratio
from benchmarks.extraction import Setup
from fungi import wrapper
from fungi.errors import FungiError

CONFIGS = {"kl": "KLConfig", "dino": "DINOConfig", "simclr": "SimCLRConfig"}


def peer_package(folder: Path) -> str:
    """Find the package of the published library in a checkout, make it importable, and return its name.

    The `wrapper.py` of this package defines `FUNGIWrapper`. Raises FungiError if there is no such package.
    """
    for path in sorted([*folder.glob("*/wrapper.py"), *folder.glob("src/*/wrapper.py")]):
        if "class FUNGIWrapper" in path.read_text(encoding="utf-8"):
            sys.path.insert(0, str(path.parent.parent))
            return path.parent.name
    raise FungiError(
        f"--peer {folder}: there is no package with FUNGIWrapper in its wrapper.py. Give the folder of a checkout."
    )


def print_peer(setup: Setup, folder: Path, images: Sequence[Image.Image], rounds: int) -> None:
    """Print the time of the published library over ours, with the same model, objectives and pictures."""
    package = peer_package(folder)
    published = _wrapper(setup, importlib.import_module(f"{package}.wrapper"), f"{package}.config", images)
    ours = _wrapper(setup, wrapper, "fungi.config", images)
    our_seconds, published_seconds = alternate(
        lambda: ours(images), lambda: published(images), rounds, setup.engine.device
    )
    print(f"time of {package} / ours, {len(images)} decoded pictures: {ratio(published_seconds, our_seconds)}")


def _wrapper(setup: Setup, module: Any, configs: str, images: Sequence[Image.Image]) -> Any:
    """Return a wrapper of the model with all objectives. The objectives take their negatives from the pictures."""
    engine = setup.engine
    target = engine.targets[0]
    config_module = importlib.import_module(configs)
    instance = module.FUNGIWrapper(
        model=setup.model,
        target_layer=target.path,
        device=engine.device,
        projection=engine.projectors[target.name].matrix.dense(),
        input_dim=setup.objectives[0].views.input.size,
        use_fp16=engine.dtype != torch.float32,
        extractor_configs=[getattr(config_module, CONFIGS[bound.name])() for bound in setup.objectives],
    )
    instance.setup(_Pairs(images))
    return instance


class _Pairs(torch.utils.data.Dataset):
    """Dataset of pairs (picture, label). The pictures repeat, so that SimCLR has enough negatives."""

    def __init__(self, images: Sequence[Image.Image], length: int = 2048) -> None:
        self._images, self._length = images, length

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        if row >= self._length:
            raise IndexError(row)
        return self._images[row % len(self._images)], 0

    def __len__(self) -> int:
        return self._length
