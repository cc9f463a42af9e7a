"""A ViT-B/16 that was never trained: a control that shows how much gradients add without learned features."""

from functools import partial
from pathlib import Path

from fungi.backbones.base import StateDict
from fungi.backbones.checkpoints import read_checkpoint
from fungi.backbones.sources import random_weights
from fungi.backbones.timm_models import build_timm, register_vit
from fungi.runtime.files import written_once
from fungi.views.image import HALF, ImageInput

NAME, SEED = "random-vit-b16", 42

_build = partial(build_timm, "vit_base_patch16_224", num_classes=0)


def weights_file() -> Path:
    """Return the file of the weights in torch hub's cache."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / f"fungi-{NAME}-seed{SEED}.safetensors"


def saved_weights() -> StateDict:
    """Return the weights. The first call draws them with the fixed seed and saves them; later calls read the file.

    Random numbers differ in the last bits between types of CPU. With the file, all parts of a study use the same
    network.
    """
    file = weights_file()
    if not file.exists():
        from safetensors.torch import save

        with written_once(file) as unfinished:
            unfinished.write_bytes(save(random_weights(_build, SEED, NAME)))
    return read_checkpoint(file)


register_vit(
    NAME,
    label="randomly initialised ViT-B/16",
    size="B",
    source=f"random initialisation of timm vit_base_patch16_224, seed {SEED}, saved in torch hub's cache",
    input=ImageInput(size=224, resize=248, interpolation="bicubic", statistics=HALF),
    build=_build,
    pretrained=saved_weights,
)
