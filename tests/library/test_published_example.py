"""Code for the published library runs with this library, if the name of the package is changed to `fungi`."""

from dataclasses import asdict, dataclass

import pytest
import torch
import torch.nn as nn
import torchvision.transforms.v2 as tf
from torch.nn.functional import kl_div, log_softmax, softmax
from torch.utils.data import DataLoader

from fungi.config import DINOConfig, KLConfig, SimCLRConfig
from fungi.gradients.base_extractor import BaseGradientExtractor
from fungi.wrapper import FUNGIWrapper
from tests.library.models import SIZE, build, dataset

device = torch.device("cpu")
# The published example calls kl_div with an option that gives a warning.
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")


class CustomGradientsExtractor(BaseGradientExtractor):
    """The custom objective of the published example. `self.temperature` comes from its configuration."""

    def input_transform(self, input_dim: int) -> nn.Module:
        return tf.Compose([tf.ToImage(), tf.Resize((input_dim, input_dim)), tf.ToDtype(torch.float32, scale=True)])

    def compute_loss(self, latents: torch.Tensor, views_per_sample: int, **kwargs) -> torch.Tensor:
        latent_dim = latents.shape[1]
        uniform = (torch.ones(latent_dim) / latent_dim).to(self.device)
        softmax_uniform = softmax(uniform / self.temperature, dim=0)
        softmax_uniform = softmax_uniform.unsqueeze(dim=0).repeat(latents.shape[0], 1)
        softmax_latents = log_softmax(latents / self.temperature, dim=1)
        return kl_div(softmax_latents, softmax_uniform, reduction="mean")


@dataclass
class CustomConfig:
    temperature: float = 1

    def get_extractor(self, base_params: dict) -> CustomGradientsExtractor:
        params = base_params | asdict(self)
        return CustomGradientsExtractor(**params)


class WithInit(CustomGradientsExtractor):
    """An extractor whose constructor passes every argument of the base class by position, as in the published code."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: str,
        device: torch.device,
        projection: torch.Tensor,
        projection_scaling: float,
        embeddings_dim: int,
        latent_dim: int,
        input_dim: int = 224,
        use_fp16: bool = False,
        fp16_dtype: torch.dtype = torch.bfloat16,
        temperature: float = 1,
        **kwargs,
    ) -> None:
        super().__init__(
            model,
            target_layer,
            device,
            projection,
            projection_scaling,
            embeddings_dim,
            latent_dim,
            input_dim,
            use_fp16,
            fp16_dtype,
            **kwargs,
        )
        self.temperature = temperature


class WithKeywords(CustomGradientsExtractor):
    """An extractor whose constructor passes the arguments of the base class by name."""

    def __init__(self, temperature: float = 1, **kwargs) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature


@pytest.mark.slow
def test_the_example_runs_as_written() -> None:
    model, train_dataset = build("timm"), dataset()
    fungi = FUNGIWrapper(
        model=model,
        target_layer="blocks.1.attn.proj",
        device=device,
        use_fp16=True,
        extractor_configs=[KLConfig(), DINOConfig(), SimCLRConfig(num_patches=4, stride_scale=2)],
        input_dim=SIZE,
    )
    fungi.setup(dataset=train_dataset)
    loader = DataLoader(train_dataset, batch_size=4, shuffle=False, collate_fn=lambda batch: zip(*batch, strict=True))
    features = torch.cat([fungi(images).cpu().float() for images, _ in loader])
    embeddings = nn.functional.normalize(torch.randn(len(train_dataset), 24), dim=-1, p=2)
    assert torch.cat([embeddings, features], dim=-1).shape == (12, 24 * 4)
    assert len(fungi.extractors) == 3
    torch.testing.assert_close(features.reshape(36, 24).norm(dim=1), torch.ones(36))


def test_the_published_defaults_are_accepted_at_full_size() -> None:
    config = SimCLRConfig(num_patches=4, stride_scale=6)
    base_params = {"model": build("timm"), "target_layer": "blocks.1.attn.proj", "device": "cpu"}
    extractor = config.get_extractor(base_params | {"embeddings_dim": 24, "input_dim": 224})
    assert extractor.views.n_views == 49


def test_a_custom_objective_runs_as_written() -> None:
    fungi = FUNGIWrapper(
        model=build("timm"),
        target_layer="blocks.1.attn.proj",
        device=device,
        extractor_configs=[CustomConfig(temperature=0.07)],
        input_dim=SIZE,
    )
    images, _ = zip(*dataset(), strict=True)
    assert fungi(images).shape == (12, 24)
    assert fungi.extractors[0].temperature == 0.07


@pytest.mark.parametrize("extractor_type", [WithInit, WithKeywords])
def test_settings_in_a_constructor_give_the_same_features(extractor_type: type) -> None:
    @dataclass
    class Config:
        temperature: float = 0.07
        latent_dim: int = 40
        kind: type = CustomGradientsExtractor

        def get_extractor(self, base_params: dict) -> BaseGradientExtractor:
            settings = {"temperature": self.temperature, "latent_dim": self.latent_dim}
            extractor = self.kind(**(base_params | settings))
            with torch.no_grad():
                extractor.projection_head.weight.copy_(torch.linspace(-1, 1, 960).reshape(40, 24).sin())
                extractor.projection_head.bias.zero_()
            return extractor

    images = [image for image, _ in dataset(3)]
    wrappers = [
        FUNGIWrapper(build("timm"), "blocks.1.attn.proj", device, input_dim=SIZE, extractor_configs=[Config(kind=kind)])
        for kind in (CustomGradientsExtractor, extractor_type)
    ]
    torch.testing.assert_close(wrappers[0](images), wrappers[1](images), rtol=0, atol=0)


PUBLISHED_USAGE = """
import torch
import torch.nn as nn

from tqdm import tqdm
from fungi.wrapper import FUNGIWrapper
from fungi.config import KLConfig, DINOConfig, SimCLRConfig

device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")

fungi = FUNGIWrapper(
    model=model,
    target_layer="blocks.11.attn.proj",
    device=device,
    use_fp16=True,
    extractor_configs=[
        KLConfig(),
        DINOConfig(),
        SimCLRConfig(num_patches=4, stride_scale=6)
    ]
)

fungi.setup(dataset=train_dataset)
wrapper = fungi

batch_size = 32
num_workers = 2
features = []

data_loader = DataLoader(
    dataset,
    batch_size=batch_size,
    shuffle=False,
    num_workers=num_workers,
    collate_fn=lambda batch: zip(*batch)
)

for images, _ in tqdm(data_loader):
    features.append(wrapper(images).cpu().float())

features = torch.cat(features)
embeddings = nn.functional.normalize(embeddings, dim=-1, p=2)

features = torch.cat([
    embeddings,
    features
], dim=-1)
"""
"""The published usage at full size: 224 pixels, twelve blocks, all objectives with their published settings."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_published_usage_runs_unchanged_and_agrees_with_the_shorter_usage() -> None:
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = VisionTransformer(patch_size=16, embed_dim=24, depth=12, num_heads=2, num_classes=0).eval()
    items = dataset(2)
    wrapper = FUNGIWrapper(
        model,
        "blocks.11.attn.proj",
        "cpu",
        use_fp16=True,
        extractor_configs=[KLConfig(), DINOConfig(), SimCLRConfig()],
        include_embeddings=True,
    )
    wrapper.setup(items)
    expected = wrapper.extract([image for image, _ in items])
    scope = {"model": model, "train_dataset": items, "dataset": items, "DataLoader": DataLoader}
    exec(PUBLISHED_USAGE, scope | {"embeddings": expected[:, :24]}, scope)
    features = scope["features"]
    assert features.shape == expected.shape == (2, 4 * 24)
    # Rounding in bfloat16 depends on the size of the batch.
    for expected_part, part in zip(expected.split(24, dim=1), features.split(24, dim=1), strict=True):
        assert float(torch.cosine_similarity(expected_part, part).min()) > 0.999
