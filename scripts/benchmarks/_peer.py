"""The published library beside this one, for users who have its checkout. Part of `benchmark.py gpu --peer FOLDER`."""

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
    """Return the name of the package in a checkout whose `wrapper.py` defines `FUNGIWrapper`, and make it importable.

    FungiError for a folder without such a package.
    """
    for path in sorted([*folder.glob("*/wrapper.py"), *folder.glob("src/*/wrapper.py")]):
        if "class FUNGIWrapper" in path.read_text(encoding="utf-8"):
            sys.path.insert(0, str(path.parent.parent))
            return path.parent.name
    raise FungiError(
        f"--peer {folder}: there is no package with FUNGIWrapper in its wrapper.py. Give the folder of a checkout."
    )


def print_peer(setup: Setup, folder: Path, images: Sequence[Image.Image], rounds: int) -> None:
    """Print the time of the published library over ours for the same model, objectives and pictures."""
    package = peer_package(folder)
    theirs = _wrapper(setup, importlib.import_module(f"{package}.wrapper"), f"{package}.config", images)
    ours = _wrapper(setup, wrapper, "fungi.config", images)
    mine, other = alternate(lambda: ours(images), lambda: theirs(images), rounds, setup.engine.device)
    print(f"time of {package} / ours, {len(images)} pictures, decoded already: {ratio(other, mine)}")


def _wrapper(setup: Setup, module: Any, configs: str, images: Sequence[Image.Image]) -> Any:
    """Return a wrapper of the model with all objectives, its supporting data drawn from the pictures."""
    engine = setup.engine
    target = engine.targets[0]
    named = importlib.import_module(configs)
    built = module.FUNGIWrapper(
        model=setup.model,
        target_layer=target.path,
        device=engine.device,
        projection=engine.projectors[target.name].matrix.dense(),
        input_dim=setup.objectives[0].views.input.size,
        use_fp16=engine.dtype != torch.float32,
        extractor_configs=[getattr(named, CONFIGS[bound.name])() for bound in setup.objectives],
    )
    built.setup(_Pairs(images))
    return built


class _Pairs(torch.utils.data.Dataset):
    """Pictures as items (picture, label): enough of them for the negatives of SimCLR."""

    def __init__(self, images: Sequence[Image.Image], length: int = 2048) -> None:
        self._images, self._length = images, length

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        if row >= self._length:
            raise IndexError(row)
        return self._images[row % len(self._images)], 0

    def __len__(self) -> int:
        return self._length
