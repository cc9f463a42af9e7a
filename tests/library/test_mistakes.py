"""Mistakes in models, objectives and arguments give an error with a solution."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fungi.config import DeepClusterConfig, KLConfig, SimCLRConfig
from fungi.errors import FungiError
from fungi.gradients import KLGradientsExtractor
from fungi.gradients.base_extractor import BaseGradientExtractor
from fungi.wrapper import FUNGIWrapper
from tests.library.models import build, dataset, pictures, set_up_wrapper, wrap
from tests.library.test_laws import OwnConfig


class OneView(BaseGradientExtractor):
    """A correct objective with a single view, the resized image. Subclasses have other losses."""

    def input_transform(self, input_dim: int) -> Any:
        from torchvision.transforms import v2

        return v2.Compose([v2.Resize((input_dim, input_dim)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Tensor:
        return latents.square().sum(dim=1).mean()


class Mixing(OneView):
    """An objective whose loss of a sample depends on the other samples of the batch."""

    def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Tensor:
        return (latents - latents.mean(dim=0)).square().sum(dim=1).mean() + latents.square().mean()


class Summing(OneView):
    def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Tensor:
        return latents.square().sum()


class WrongShape(OneView):
    def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Tensor:
        return latents.square()


class Detached(OneView):
    def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Tensor:
        return latents.detach().mean()


class Overflowing(OneView):
    def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Tensor:
        return (latents * torch.inf).sum(dim=1).mean()


def test_a_loss_that_mixes_samples_is_refused() -> None:
    with pytest.raises(FungiError, match=r"the loss of Mixing mixes the samples of a batch.*cosine"):
        wrap(configs=[KLConfig(), OwnConfig(Mixing)]).setup(dataset(), check_independence=True)


def test_latents_are_the_outputs_of_the_head_for_normalised_embeddings() -> None:
    (extractor,) = wrap(configs=[OwnConfig(OneView)]).extractors
    head, embeddings = extractor.projection_head, torch.randn(5, extractor.embeddings_dim)
    for latent, embedding in zip(extractor.latents(embeddings), embeddings, strict=True):
        torch.testing.assert_close(latent, head.weight @ (embedding / embedding.square().sum().sqrt()) + head.bias)


@pytest.mark.slow
def test_losses_of_independent_samples_pass_the_check() -> None:
    from tests.library.models import SMALL_CONFIGS

    configs = [*SMALL_CONFIGS, DeepClusterConfig(prototypes=3), OwnConfig(OneView), OwnConfig(Summing)]
    wrap(configs=configs).setup(dataset(), check_independence=True)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WrongShape, r"compute_loss of WrongShape returned shape \[2, 768\] for 2 samples. It has to return a scalar"),
        (Detached, "the loss of Detached has no gradient with respect to the latents"),
        (Overflowing, "the gradient of Overflowing is not finite for images 0, 1 of the batch"),
    ],
)
def test_invalid_losses_are_refused(kind: type, message: str) -> None:
    with pytest.raises(FungiError, match=message):
        wrap(configs=[OwnConfig(kind)])(pictures(2))


def test_an_overflow_in_half_precision_is_refused() -> None:
    class LargeActivations(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 32), nn.Linear(4, 6)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.first(images).flatten(1) * 1e6)

    torch.manual_seed(0)
    config = OwnConfig(OneView)
    with pytest.raises(FungiError, match=r"not finite.*Half precision may have overflowed: use bfloat16 or float32"):
        wrap("timm", [config], model=LargeActivations(), layer="last", use_fp16=True, fp16_dtype=torch.float16)(
            pictures(1)
        )


class UnusualLayers(nn.Module):
    """A model with layers that are used twice, share a weight, have no effect on the output, or are not called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 32)
        self.first, self.twice, self.without_effect, self.idle = (nn.Linear(8, 8) for _ in range(4))
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.first.weight
        self.norm = nn.LayerNorm(8)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images).flatten(1))
        self.without_effect(x)
        return self.twice(self.twice(self.tied(x)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "'twice' is used several times in one forward pass.*Candidates: "),
        ("tied", "'tied' shares its weight with 'first'.*Candidates: "),
        ("without_effect", "'without_effect' gets no gradient.*Candidates: "),
        ("idle", "'idle' was not called as a module in the forward pass.*Candidates: "),
        ("norm", r"'norm' is a LayerNorm\. A gradient source has to be Linear or Conv2d.*Candidates: "),
        ("blocks.3.attn.proj", "does not exist in the model.*Candidates: "),
    ],
)
def test_layers_that_cannot_be_the_gradient_source_are_refused(layer: str, message: str) -> None:
    with pytest.raises(FungiError, match=message):
        wrap(model=UnusualLayers(), layer=layer)


def test_a_missing_setup_is_refused() -> None:
    with pytest.raises(FungiError, match=r"SimCLRGradientsExtractor has no supporting data.*call setup"):
        wrap(configs=[SimCLRConfig()])(pictures(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wrap(configs=[]), "no objective is given"),
        (lambda: wrap(projection=torch.ones(4, 7)), r"projection takes gradients of 7 entries.*have 600 \(24 x 25\)"),
        (lambda: wrap(configs=[SimCLRConfig(num_patches=5)]), "num_patches 5 is not a square number"),
        (lambda: wrap(model=nn.Conv2d(3, 4, 3), layer=""), "layer '' is not of the form path"),
        (lambda: wrap(model=nn.Sequential(nn.Conv2d(3, 4, 3)), layer="0"), r"gives shape \[1, 4, 30, 30\].*\[b, d\]"),
        (
            lambda: set_up_wrapper(configs=[DeepClusterConfig(prototypes=3000)]),
            "prototypes is 3000, but there are only 12 train images",
        ),
        (lambda: set_up_wrapper()([]), "the list of images is empty"),
        (lambda: set_up_wrapper()([torch.zeros(3, 32, 32)]), "image 0 is a Tensor, not a PIL image"),
        (lambda: wrap().setup([]), "the dataset is empty"),
        (lambda: wrap().setup([torch.zeros(3, 32, 32)]), "item 0 of the dataset is a Tensor.*without a transform"),
        (lambda: wrap(configs=[OwnConfig(OneView, views=3)]), "OneView already has an attribute 'views'"),
        (
            lambda: wrap(configs=[OwnConfig(KLGradientsExtractor, tempurature=3)]),
            "no option 'tempurature'.*temperature",
        ),
    ],
)
def test_mistakes_are_refused(call: Any, message: str) -> None:
    with pytest.raises(FungiError, match=message):
        call()


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image: image, "input_transform of InvalidViews gave Image"),
        (lambda image: torch.zeros(5), r"input_transform of InvalidViews gave shape \[5\]"),
        (lambda image: torch.zeros(image.size[0], 3, 32, 32), "gave views of different shapes"),
    ],
)
def test_invalid_transforms_are_refused(transform: Any, message: str) -> None:
    class InvalidViews(OneView):
        def input_transform(self, input_dim: int) -> Any:
            return transform

    with pytest.raises(FungiError, match=message):
        wrap(configs=[OwnConfig(InvalidViews)])(pictures(2))


def test_errors_are_value_errors() -> None:
    with pytest.raises(ValueError, match="no objective"):
        FUNGIWrapper(build("timm"), "blocks.1.attn.proj", "cpu")
