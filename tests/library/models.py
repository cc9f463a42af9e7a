"""Small models, images and wrappers for the tests of the library."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fungi.config import DINOConfig, KLConfig, SimCLRConfig
from fungi.wrapper import FUNGIWrapper

SIZE = 32  # side of the images in pixels
# Kind of model -> its gradient source.
LAYERS = {
    "timm": "blocks.1.attn.proj",
    "torchvision": "encoder.layers.encoder_layer_1.self_attention.out_proj",
    "convolutions": "last",
}
SMALL_CONFIGS = (KLConfig(latent_dim=24), DINOConfig(latent_dim=24), SimCLRConfig(latent_dim=12, stride_scale=2))


class Convolutions(nn.Module):
    """A network with BatchNorm and dropout, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 5, stride=3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.last = nn.Conv2d(8, 12, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(self.last(self.first(images))).mean(dim=(2, 3))


def build(kind: str) -> nn.Module:
    """Return a model whose parameters require gradients, like every new model of timm and torchvision."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        if kind == "timm":
            from timm.models.vision_transformer import VisionTransformer

            return VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0)
        if kind == "torchvision":
            from torchvision.models import VisionTransformer as TorchvisionTransformer

            sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 32}
            model = TorchvisionTransformer(image_size=SIZE, patch_size=8, **sizes)
            model.heads = nn.Identity()
            return model
        return Convolutions()


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Return images of different sizes, with smooth random colours."""
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        size = tuple(int(side) for side in generator.integers(30, 50, 2))
        images.append(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    return images


def dataset(count: int = 12, seed: int = 1) -> list[tuple[Image.Image, int]]:
    """Return images with labels of three classes."""
    return [(image, index % 3) for index, image in enumerate(pictures(count, seed))]


def wrap(
    kind: str = "timm", configs: Any = SMALL_CONFIGS, model: nn.Module | None = None, **options: Any
) -> FUNGIWrapper:
    """Return a wrapper before its setup. model: replaces the small model of this kind."""
    model = build(kind) if model is None else model
    layer = options.pop("layer", LAYERS[kind])
    return FUNGIWrapper(model, layer, "cpu", input_dim=SIZE, extractor_configs=list(configs), **options)


def set_up_wrapper(*args: Any, **options: Any) -> FUNGIWrapper:
    """Return a wrapper after its setup with `dataset()`, which SimCLR needs. The arguments are those of `wrap`."""
    wrapper = wrap(*args, **options)
    wrapper.setup(dataset())
    return wrapper
