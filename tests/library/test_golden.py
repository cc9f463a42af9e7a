"""Compare the wrapper with reference values, with the views, heads and negatives of the reference files.

`feature` in a reference file is the feature of the published code, `true_feature` the feature by autograd. For the
model of torchvision, the published code uses another input of the layer, so only `true_feature` is compared.
"""

from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cosine_similarity

from fungi.config import DINOConfig, KLConfig, SimCLRConfig
from fungi.gradients import DINOGradientsExtractor, KLGradientsExtractor, SimCLRGradientsExtractor
from fungi.wrapper import FUNGIWrapper
from tests.engine.golden import LAYERS, load, model

SMALLEST_COSINE = 0.99999  # rounding in float32


def load_head(head: Any, golden: dict[str, torch.Tensor], name: str) -> None:
    """Copy the weights of a head from a reference file."""
    head.load_state_dict({"weight": golden[f"head/{name}_w"], "bias": golden[f"head/{name}_b"]})


def fixed_views(golden: dict[str, torch.Tensor], count: int) -> Any:
    """Return a transform that gives the views of the reference. The transform recognises an image by its pixels."""
    by_pixels = {golden[f"image/{i}"].numpy().tobytes(): golden["views"][i, :count] for i in range(3)}
    return lambda image: by_pixels[image.tobytes()] if count > 1 else by_pixels[image.tobytes()][0]


def configs(golden: dict[str, torch.Tensor]) -> list[Any]:
    """Return configurations whose extractors use the views, heads and negatives of the reference."""

    class FixedKL(KLGradientsExtractor):
        def input_transform(self, input_dim: int) -> Any:
            return fixed_views(golden, 1)

    class FixedDINO(DINOGradientsExtractor):
        def input_transform(self, input_dim: int) -> Any:
            return fixed_views(golden, 12)

    class FixedSimCLR(SimCLRGradientsExtractor):
        def input_transform(self, input_dim: int) -> Any:
            return fixed_views(golden, 25)

    @dataclass
    class KLWithFixedHead(KLConfig):
        def get_extractor(self, base_params: dict) -> Any:
            extractor = FixedKL(**(base_params | asdict(self)))
            load_head(extractor.projection_head, golden, "kl")
            return extractor

    @dataclass
    class DINOWithFixedHeads(DINOConfig):
        def get_extractor(self, base_params: dict) -> Any:
            extractor = FixedDINO(**(base_params | asdict(self)))
            load_head(extractor.projection_head, golden, "dino_student")
            load_head(extractor.teacher_projection, golden, "dino_teacher")
            return extractor

    @dataclass
    class SimCLRWithFixedHead(SimCLRConfig):
        def get_extractor(self, base_params: dict) -> Any:
            extractor = FixedSimCLR(**(base_params | asdict(self)))
            load_head(extractor.projection_head, golden, "simclr")
            extractor.comparison_batch = golden["simclr_negatives"]
            return extractor

    return [
        KLWithFixedHead(latent_dim=64),
        DINOWithFixedHeads(latent_dim=40),
        SimCLRWithFixedHead(latent_dim=16, stride_scale=4),
    ]


def projection_of_type(golden: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Return the projection matrix of the reference. If the type is bool, True means 1, and False means -1."""
    projection = golden["projection"]
    return projection if dtype == torch.bool else (2 * projection.to(torch.int8) - 1).to(dtype)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("kind", ["timm", "torchvision"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8, torch.bool], ids=str)
def test_features_equal_the_reference(kind: str, dtype: torch.dtype) -> None:
    golden = load(kind)
    network: nn.Module = model(kind, golden)
    projection = projection_of_type(golden, dtype)
    wrapper = FUNGIWrapper(
        network, LAYERS[kind], torch.device("cpu"), projection, 32, extractor_configs=configs(golden)
    )
    features = wrapper([Image.fromarray(golden[f"image/{i}"].numpy()) for i in range(3)])
    torch.testing.assert_close(features.reshape(9, -1).norm(dim=1), torch.ones(9))
    for name, part in zip(("kl", "dino", "simclr"), features.chunk(3, dim=1), strict=True):
        assert cosine_similarity(part, golden[f"true_feature/{name}"].float()).min() > SMALLEST_COSINE
        if kind == "timm":
            assert cosine_similarity(part, golden[f"feature/{name}"]).min() > SMALLEST_COSINE


def test_the_patches_of_simclr_equal_the_reference() -> None:
    golden = load("timm")
    extractor = FUNGIWrapper(
        model("timm", golden), LAYERS["timm"], "cpu", input_dim=32, extractor_configs=[SimCLRConfig(stride_scale=4)]
    ).extractors[0]
    views = torch.stack([extractor.transform(Image.fromarray(golden[f"image/{i}"].numpy())) for i in range(3)])
    assert (views - golden["views"]).abs().max() < 1e-5
