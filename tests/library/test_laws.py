"""Laws of every wrapper."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from fungi.config import DeepClusterConfig, DINOConfig, KLConfig, SimCLRConfig
from fungi.errors import FungiError
from fungi.gradients.base_extractor import BaseGradientExtractor
from fungi.gradients.projection import draw_projection
from fungi.wrapper import FUNGIWrapper
from tests.daily import first_fast
from tests.library.models import LAYERS, SIZE, SMALL_CONFIGS, Convolutions, build, dataset, pictures, ready, wrap

KINDS = tuple(LAYERS)


def same(first: Tensor, second: Tensor) -> bool:
    """Return True if both are equal up to rounding.

    Each part has norm 1. The tolerance is 1e-4, because the KL gradient is a small difference of two softmaxes.
    """
    return bool((first - second).abs().max() < 1e-4)


@pytest.mark.parametrize("kind", first_fast(KINDS))
def test_features_do_not_depend_on_the_batch_or_its_order(kind: str) -> None:
    wrapper, images = ready(kind), pictures(5)
    together = wrapper(images)
    assert together.shape == (5, 3 * wrapper.embeddings_dim)
    assert same(wrapper(images[::-1]).flip(0), together)
    assert same(torch.cat([wrapper([image]) for image in images]), together)
    assert same(wrapper.extract(images, batch_size=2), together)
    assert not same(together[:1], together[1:2])


@pytest.mark.slow
def test_features_are_the_same_when_workers_decode() -> None:
    wrapper, images = ready(), dataset(6, seed=0)
    assert torch.equal(wrapper.extract(images, batch_size=3, num_workers=2), wrapper.extract(images, batch_size=3))


def test_equal_images_have_equal_features_and_random_views_follow_the_seed() -> None:
    image = pictures(1)[0]
    wrapper = wrap(configs=[DINOConfig(latent_dim=24)])
    assert same(wrapper([image]), wrapper([image.copy()]))
    heads = wrapper.extractors[0].state()
    other = wrap(configs=[DINOConfig(latent_dim=24)], model=wrapper.model, seed=7, projection=projection_of(wrapper))
    other.extractors[0].restore(heads)
    assert torch.equal(other.extractors[0].projection_head.weight, wrapper.extractors[0].projection_head.weight)
    assert not same(wrapper([image]), other([image]))


def projection_of(wrapper: FUNGIWrapper) -> Tensor:
    return wrapper.extractors[0].projection


def test_global_random_states_do_not_change() -> None:
    wrapper = ready()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    wrapper(pictures(2))
    assert torch.equal(torch.random.get_rng_state(), before)


class Failing(BaseGradientExtractor):
    def input_transform(self, input_dim: int) -> Any:
        return lambda image: torch.zeros(3, input_dim, input_dim)

    def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Tensor:
        raise RuntimeError("no loss today")


class OwnConfig:
    def __init__(self, kind: type, **settings: Any) -> None:
        self.kind, self.settings = kind, settings

    def get_extractor(self, base_params: dict) -> BaseGradientExtractor:
        return self.kind(**(base_params | self.settings))


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_not_changed(kind: str) -> None:
    model = build(kind).train()
    first = next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    wrapper = wrap(kind, model=model)
    wrapper.setup(dataset())
    wrapper(pictures(2))
    failing = wrap(kind, [OwnConfig(Failing)], model=model)
    with pytest.raises(RuntimeError, match="no loss today"):
        failing(pictures(1))
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [p is not first for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrappers_of_one_model_are_independent() -> None:
    model, images = build("timm"), pictures(2)
    first = ready(model=model)
    alone = first(images)
    second = ready(model=model, layer="blocks.0.mlp.fc1", seed=1)
    second(images)
    assert torch.equal(first(images), alone)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool], ids=str)
def test_only_the_signs_of_a_given_projection_matter(dtype: torch.dtype) -> None:
    gradient_dim = 24 * 25
    signs = draw_projection(10, gradient_dim, seed=5).dense()
    projection = signs > 0 if dtype == torch.bool else signs.to(dtype)
    wrapper = wrap(configs=[KLConfig(latent_dim=24)], projection=projection)
    raw = wrapper.extractors[0](pictures(2))  # not normalised
    assert raw.shape == (2, 10)
    assert torch.equal(wrapper.extractors[0].projection, signs)
    doubled = wrap(configs=[KLConfig(latent_dim=24)], projection=torch.cat([signs, signs]), model=wrapper.model)
    expected = torch.cat([raw, raw], dim=1) / 2**0.5  # scaling is 1/sqrt(p)
    torch.testing.assert_close(
        doubled.extractors[0](pictures(2)), expected, rtol=1e-5, atol=1e-6 * float(raw.abs().max())
    )


def test_the_default_projection_equals_that_of_the_stages() -> None:
    wrapper = wrap(configs=[KLConfig()])
    assert torch.equal(projection_of(wrapper), draw_projection(24, 24 * 25, seed=42).dense())


def test_a_mean_loss_gives_the_gradient_of_each_sample() -> None:
    class Mean(BaseGradientExtractor):
        per_sample = False

        def input_transform(self, input_dim: int) -> Any:
            return lambda image: torch.ones(2, 3, input_dim, input_dim) * image.size[0] / 50

        def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Tensor:
            losses = latents.square().sum(dim=1).reshape(-1, views_per_sample).mean(dim=1)
            return losses if self.kwargs_ask_for_samples else losses.mean()

    images = pictures(3)
    gradients = [
        wrap(configs=[OwnConfig(Mean, kwargs_ask_for_samples=asked)]).extractors[0](images) for asked in (False, True)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6 * float(gradients[1].abs().max()))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_the_half_precision_dtype_is_used(half: torch.dtype) -> None:
    dtypes = []
    model = build("timm")
    model.blocks[0].mlp.fc1.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    wrapper = wrap(configs=[KLConfig(), DINOConfig()], model=model, use_fp16=True, fp16_dtype=half)
    full = wrap(configs=[KLConfig(), DINOConfig()], model=model)
    dtypes.clear()
    images = pictures(3)
    features = wrapper(images)
    assert set(dtypes) == {half}
    # bfloat16 has a precision of 8 bits, so features agree to a cosine of about 0.98
    assert cosine_similarity(features, full(images)).min() > (0.98 if half == torch.bfloat16 else 0.999)


def test_embeddings_come_first_and_share_the_forward_with_kl() -> None:
    model, images, calls = build("torchvision"), pictures(3), []
    wrapper = wrap("torchvision", SMALL_CONFIGS[:1], model=model, include_embeddings=True)
    alone = wrap("torchvision", SMALL_CONFIGS[:1], model=model)
    handle = model.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    features = wrapper(images)
    assert calls == [3]
    handle.remove()
    plain = wrapper.image_input.views("plain")
    with torch.no_grad():
        batch = plain.render(plain.collate([plain.prepare(image) for image in images]))
        expected = normalize(model.eval()(batch), dim=1)
    assert same(features[:, :24], expected)
    assert same(features[:, 24:], alone(images))


def test_the_statistics_of_timm_are_used_for_its_models() -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224.augreg_in21k", pretrained=False, num_classes=0, depth=1)
    wrapper = FUNGIWrapper(model, "blocks.0.attn.proj", "cpu", input_dim=224, extractor_configs=[KLConfig()])
    assert wrapper.image_input.statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert wrapper.image_input.resize == 248
    assert wrap(configs=[KLConfig()]).image_input.statistics[0] == (0.485, 0.456, 0.406)


@pytest.mark.slow
def test_gradients_of_several_layers_are_concatenated() -> None:
    model, images = build("timm"), pictures(2)
    layers = ("blocks.1.attn.proj", "blocks.1.attn.qkv[v]", "blocks.0.mlp.fc2:early")
    wrapper = ready(model=model, layer=layers)
    features = wrapper(images)
    assert features.shape == (2, 3 * 3 * 24)
    assert list(wrapper.parts.values()) == [24] * 9
    for place, layer in enumerate(layers):
        alone = ready(model=model, layer=layer)
        assert same(features.reshape(2, 3, 3, 24)[:, :, place], alone(images).reshape(2, 3, 24))


def test_grey_and_transparent_images_are_converted_to_rgb() -> None:
    wrapper, image = ready(), pictures(1)[0]
    grey = image.convert("L")
    assert same(wrapper([grey]), wrapper([grey.convert("RGB")]))
    assert wrapper([image.convert("RGBA")]).shape == (1, 72)


def test_batch_norm_does_not_depend_on_the_batch() -> None:
    model = Convolutions().train()
    wrapper = ready("convolutions", model=model)
    images = pictures(4)
    assert same(wrapper(images)[:1], wrapper(images[:1]))


def test_deepcluster_assignments_do_not_depend_on_the_batch() -> None:
    wrapper = ready(configs=[DeepClusterConfig(prototypes=4)])
    images = pictures(3)
    assert same(wrapper(images), torch.cat([wrapper([image]) for image in images]))


@pytest.mark.slow
@pytest.mark.parametrize("option", ["negatives_mixing", "exclude_self_from_negatives"])
def test_options_of_the_negatives_change_features_and_keep_samples_independent(option: str) -> None:
    base = {"latent_dim": 12, "stride_scale": 2, "comparison_batch_size": 6, "mixing_k": 3}
    model, data = build("timm"), dataset(6)
    images = [image for image, _ in data]
    features = []
    for chosen in ({}, {option: True}):
        wrapper = wrap(configs=[SimCLRConfig(**base, **chosen)], model=model)
        wrapper.setup(data)
        features.append(wrapper(images))
        assert same(features[-1], torch.cat([wrapper([image]) for image in images]))
    assert not same(features[0], features[1])


def test_hard_negatives_come_first() -> None:
    model, hard = build("timm"), pictures(2, seed=9)
    plain = SimCLRConfig(latent_dim=12, stride_scale=1, comparison_batch_size=5)
    with_hard = SimCLRConfig(latent_dim=12, stride_scale=1, comparison_batch_size=5, hard_negatives=hard)
    wrappers = [wrap(configs=[config], model=model) for config in (plain, with_hard)]
    for wrapper in wrappers:
        wrapper.setup(dataset())
    extractor = wrappers[1].extractors[0]
    views = torch.cat([extractor.transform(image) for image in hard])
    assert extractor.comparison_batch.shape == (5 * 4, 12)
    assert same(extractor.comparison_batch[:8], extractor.encode(views))


@pytest.mark.parametrize("views", ["random-crops", "default"])
def test_features_of_other_simclr_views_do_not_depend_on_the_batch(views: str) -> None:
    wrapper = ready(configs=[SimCLRConfig(views=views, n_views=3, latent_dim=12, comparison_batch_size=4)])
    assert wrapper.extractors[0].comparison_batch.shape == (4 * 2, 12)
    images = pictures(2)
    assert same(wrapper(images), torch.cat([wrapper([image]) for image in images]))


def test_too_few_random_views_are_refused() -> None:
    with pytest.raises(FungiError, match="n_views is 0: set it to at least 2"):
        wrap(configs=[SimCLRConfig(views="random-crops")])


def test_the_size_of_views_comes_from_the_model() -> None:
    assert all(extractor.transform(pictures(1)[0]).shape[-1] == SIZE for extractor in wrap().extractors)
    assert wrap().extractors[2].input_transform(48)(pictures(1)[0]).shape[-1] == 48
