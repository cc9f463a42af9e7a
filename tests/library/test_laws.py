"""Laws of every wrapper: independence of the batch, unchanged models, projections, views and options."""

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
from tests.daily import slow_after_first
from tests.library.models import (
    LAYERS,
    SIZE,
    SMALL_CONFIGS,
    Convolutions,
    build,
    dataset,
    pictures,
    set_up_wrapper,
    wrap,
)

KINDS = tuple(LAYERS)


def equal_up_to_rounding(first: Tensor, second: Tensor) -> bool:
    """Return whether features are equal within 1e-4.

    Each part has norm 1. The tolerance is so large because the KL gradient is a small difference of two softmaxes.
    """
    return bool((first - second).abs().max() < 1e-4)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("kind", slow_after_first(KINDS))
def test_features_do_not_depend_on_the_batch_or_the_order_of_images(kind: str) -> None:
    wrapper, images = set_up_wrapper(kind), pictures(5)
    features = wrapper(images)
    assert features.shape == (5, 3 * wrapper.embeddings_dim)
    assert equal_up_to_rounding(wrapper(images[::-1]).flip(0), features)
    assert equal_up_to_rounding(torch.cat([wrapper([image]) for image in images]), features)
    assert equal_up_to_rounding(wrapper.extract(images, batch_size=2), features)
    assert not equal_up_to_rounding(features[:1], features[1:2])


@pytest.mark.slow
def test_features_do_not_depend_on_the_number_of_workers() -> None:
    wrapper, images = set_up_wrapper(), dataset(6, seed=0)
    assert torch.equal(wrapper.extract(images, batch_size=3, num_workers=2), wrapper.extract(images, batch_size=3))


def test_equal_images_have_equal_features_and_random_views_depend_on_the_seed() -> None:
    image = pictures(1)[0]
    wrapper = wrap(configs=[DINOConfig(latent_dim=24)])
    assert equal_up_to_rounding(wrapper([image]), wrapper([image.copy()]))
    projection = projection_of(wrapper)
    other_seed = wrap(configs=[DINOConfig(latent_dim=24)], model=wrapper.model, seed=7, projection=projection)
    other_seed.extractors[0].restore(wrapper.extractors[0].state())  # the same heads, so that only the views differ
    assert torch.equal(other_seed.extractors[0].projection_head.weight, wrapper.extractors[0].projection_head.weight)
    assert not equal_up_to_rounding(wrapper([image]), other_seed([image]))


def projection_of(wrapper: FUNGIWrapper) -> Tensor:
    """Return the projection matrix of the first objective, which all objectives share."""
    return wrapper.extractors[0].projection


def test_global_random_states_do_not_change() -> None:
    wrapper = set_up_wrapper()
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    wrapper(pictures(2))
    assert torch.equal(torch.random.get_rng_state(), state)


class Failing(BaseGradientExtractor):
    """An objective whose loss raises an error."""

    def input_transform(self, input_dim: int) -> Any:
        return lambda image: torch.zeros(3, input_dim, input_dim)

    def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Tensor:
        raise RuntimeError("the loss fails")


class OwnConfig:
    """A configuration for an extractor of any class."""

    def __init__(self, kind: type, **settings: Any) -> None:
        self.kind, self.settings = kind, settings

    def get_extractor(self, base_params: dict) -> BaseGradientExtractor:
        return self.kind(**(base_params | self.settings))


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_not_changed(kind: str) -> None:
    model = build(kind).train()
    frozen = next(model.parameters()).requires_grad_(False)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    wrapper = wrap(kind, model=model)
    wrapper.setup(dataset())
    wrapper(pictures(2))
    failing = wrap(kind, [OwnConfig(Failing)], model=model)
    with pytest.raises(RuntimeError, match="the loss fails"):
        failing(pictures(1))
    assert [module.training for module in model.modules()] == modes
    for parameter in model.parameters():
        assert parameter.requires_grad == (parameter is not frozen)
        assert parameter.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_wrappers_of_the_same_model_are_independent() -> None:
    model, images = build("timm"), pictures(2)
    wrapper = set_up_wrapper(model=model)
    features = wrapper(images)
    other_wrapper = set_up_wrapper(model=model, layer="blocks.0.mlp.fc1", seed=1)
    other_wrapper(images)
    assert torch.equal(wrapper(images), features)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool], ids=str)
def test_features_depend_on_the_signs_but_not_on_the_dtype_of_the_projection(dtype: torch.dtype) -> None:
    gradient_dim = 24 * 25
    signs = draw_projection(10, gradient_dim, seed=5).dense()
    projection = signs > 0 if dtype == torch.bool else signs.to(dtype)
    wrapper = wrap(configs=[KLConfig(latent_dim=24)], projection=projection)
    gradients = wrapper.extractors[0](pictures(2))  # projected, but not normalised
    assert gradients.shape == (2, 10)
    assert torch.equal(wrapper.extractors[0].projection, signs)
    doubled = wrap(configs=[KLConfig(latent_dim=24)], projection=torch.cat([signs, signs]), model=wrapper.model)
    expected = torch.cat([gradients, gradients], dim=1) / 2**0.5  # projections are scaled by 1 / sqrt(p)
    tolerance = 1e-6 * float(gradients.abs().max())
    torch.testing.assert_close(doubled.extractors[0](pictures(2)), expected, rtol=1e-5, atol=tolerance)


def test_the_default_projection_equals_that_of_the_stages() -> None:
    wrapper = wrap(configs=[KLConfig()])
    assert torch.equal(projection_of(wrapper), draw_projection(24, 24 * 25, seed=42).dense())


def test_a_mean_loss_gives_the_same_gradients_as_a_loss_per_sample() -> None:
    class MeanOrSamples(BaseGradientExtractor):
        def input_transform(self, input_dim: int) -> Any:
            return lambda image: torch.ones(2, 3, input_dim, input_dim) * image.size[0] / 50

        def compute_loss(self, latents: Tensor, views_per_sample: int, **kwargs: Any) -> Tensor:
            losses = latents.square().sum(dim=1).reshape(-1, views_per_sample).mean(dim=1)
            return losses if self.loss_per_sample else losses.mean()

    images = pictures(3)
    of_mean, of_samples = (
        wrap(configs=[OwnConfig(MeanOrSamples, loss_per_sample=setting)]).extractors[0](images)
        for setting in (False, True)
    )
    torch.testing.assert_close(of_mean, of_samples, rtol=1e-5, atol=1e-6 * float(of_samples.abs().max()))


@pytest.mark.parametrize("half_dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_half_precision_dtype_is_used(half_dtype: torch.dtype) -> None:
    dtypes = []
    model = build("timm")
    model.blocks[0].mlp.fc1.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    wrapper = wrap(configs=[KLConfig(), DINOConfig()], model=model, use_fp16=True, fp16_dtype=half_dtype)
    in_float32 = wrap(configs=[KLConfig(), DINOConfig()], model=model)
    dtypes.clear()
    images = pictures(3)
    features = wrapper(images)
    assert set(dtypes) == {half_dtype}
    smallest_cosine = 0.98 if half_dtype == torch.bfloat16 else 0.999  # bfloat16 has a precision of 8 bits
    assert cosine_similarity(features, in_float32(images)).min() > smallest_cosine


def test_embeddings_come_first_and_share_the_forward_pass_with_kl() -> None:
    model, images, batch_sizes = build("torchvision"), pictures(3), []
    wrapper = wrap("torchvision", SMALL_CONFIGS[:1], model=model, include_embeddings=True)
    only_kl = wrap("torchvision", SMALL_CONFIGS[:1], model=model)
    handle = model.register_forward_hook(lambda module, inputs, output: batch_sizes.append(len(output)))
    features = wrapper(images)
    assert batch_sizes == [3]
    handle.remove()
    plain_views = wrapper.image_input.views("plain")
    with torch.no_grad():
        batch = plain_views.render(plain_views.collate([plain_views.prepare(image) for image in images]))
        expected = normalize(model.eval()(batch), dim=1)
    assert equal_up_to_rounding(features[:, :24], expected)
    assert equal_up_to_rounding(features[:, 24:], only_kl(images))


def test_models_of_timm_have_the_statistics_that_timm_states() -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224.augreg_in21k", pretrained=False, num_classes=0, depth=1)
    wrapper = FUNGIWrapper(model, "blocks.0.attn.proj", "cpu", input_dim=224, extractor_configs=[KLConfig()])
    assert wrapper.image_input.statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert wrapper.image_input.resize == 248  # timm resizes images of this model to 224 / 0.9 pixels
    assert wrap(configs=[KLConfig()]).image_input.statistics[0] == (0.485, 0.456, 0.406)


@pytest.mark.slow
def test_gradients_of_several_layers_are_concatenated() -> None:
    model, images = build("timm"), pictures(2)
    layers = ("blocks.1.attn.proj", "blocks.1.attn.qkv[v]", "blocks.0.mlp.fc2:early")
    wrapper = set_up_wrapper(model=model, layer=layers)
    features = wrapper(images)
    assert features.shape == (2, 3 * 3 * 24)
    assert list(wrapper.parts.values()) == [24] * 9
    by_objective_and_layer = features.reshape(2, 3, 3, 24)
    for index, layer in enumerate(layers):
        features_of_layer = set_up_wrapper(model=model, layer=layer)(images).reshape(2, 3, 24)
        assert equal_up_to_rounding(by_objective_and_layer[:, :, index], features_of_layer)


def test_grey_and_transparent_images_are_converted_to_rgb() -> None:
    wrapper, image = set_up_wrapper(), pictures(1)[0]
    grey = image.convert("L")
    assert equal_up_to_rounding(wrapper([grey]), wrapper([grey.convert("RGB")]))
    assert wrapper([image.convert("RGBA")]).shape == (1, 72)


def test_batch_norm_does_not_depend_on_the_batch() -> None:
    model = Convolutions().train()
    wrapper = set_up_wrapper("convolutions", model=model)
    images = pictures(4)
    assert equal_up_to_rounding(wrapper(images)[:1], wrapper(images[:1]))


def test_deepcluster_assignments_do_not_depend_on_the_batch() -> None:
    wrapper = set_up_wrapper(configs=[DeepClusterConfig(prototypes=4)])
    images = pictures(3)
    assert equal_up_to_rounding(wrapper(images), torch.cat([wrapper([image]) for image in images]))


@pytest.mark.slow
@pytest.mark.parametrize("option", ["negatives_mixing", "exclude_self_from_negatives"])
def test_options_of_the_negatives_change_features_and_keep_samples_independent(option: str) -> None:
    base = {"latent_dim": 12, "stride_scale": 2, "comparison_batch_size": 6, "mixing_k": 3}
    model, data = build("timm"), dataset(6)
    images = [image for image, _ in data]
    features = []
    for options in ({}, {option: True}):
        wrapper = wrap(configs=[SimCLRConfig(**base, **options)], model=model)
        wrapper.setup(data)
        features.append(wrapper(images))
        assert equal_up_to_rounding(features[-1], torch.cat([wrapper([image]) for image in images]))
    assert not equal_up_to_rounding(features[0], features[1])


def test_hard_negatives_come_first() -> None:
    hard_negatives = pictures(2, seed=9)
    config = SimCLRConfig(latent_dim=12, stride_scale=1, comparison_batch_size=5, hard_negatives=hard_negatives)
    extractor = set_up_wrapper(configs=[config]).extractors[0]
    views = torch.cat([extractor.transform(image) for image in hard_negatives])
    assert extractor.comparison_batch.shape == (5 * 4, 12)  # five images with four patches
    assert equal_up_to_rounding(extractor.comparison_batch[:8], extractor.encode(views))


@pytest.mark.parametrize("views", ["random-crops", "default"])
def test_features_of_other_simclr_views_do_not_depend_on_the_batch(views: str) -> None:
    wrapper = set_up_wrapper(configs=[SimCLRConfig(views=views, n_views=3, latent_dim=12, comparison_batch_size=4)])
    assert wrapper.extractors[0].comparison_batch.shape == (4 * 2, 12)  # four images with two views
    images = pictures(2)
    assert equal_up_to_rounding(wrapper(images), torch.cat([wrapper([image]) for image in images]))


def test_too_few_random_views_are_refused() -> None:
    with pytest.raises(FungiError, match="n_views is 0: set it to at least 2"):
        wrap(configs=[SimCLRConfig(views="random-crops")])


def test_the_size_of_views_comes_from_the_model() -> None:
    assert all(extractor.transform(pictures(1)[0]).shape[-1] == SIZE for extractor in wrap().extractors)
    assert wrap().extractors[2].input_transform(48)(pictures(1)[0]).shape[-1] == 48
