"""View plans in the library, such as `views="native"`: independence of the batch, the same options, and saving."""

from pathlib import Path

import pytest
import torch

from fungi.config import DINOConfig, KLConfig, SimCLRConfig
from fungi.errors import FungiError
from fungi.gradients.base_extractor import BaseGradientExtractor
from fungi.wrapper import FUNGIWrapper
from tests.library.models import SMALL_CONFIGS, build, pictures, set_up_wrapper, wrap


@pytest.mark.parametrize("kind", ["timm", "torchvision", "convolutions"])
def test_features_of_a_view_plan_do_not_depend_on_the_batch(kind: str) -> None:
    wrapper = set_up_wrapper(kind, views="native", include_embeddings=True)
    features = wrapper(pictures(3))
    for row, image in enumerate(pictures(3)):
        torch.testing.assert_close(wrapper([image])[0], features[row], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(features, set_up_wrapper(kind, include_embeddings=True)(pictures(3)), atol=1e-3)


def test_a_view_plan_gives_the_features_of_the_same_options_of_the_objectives() -> None:
    patches = SimCLRConfig(latent_dim=12, stride_scale=2, view_size=16)
    options = (KLConfig(latent_dim=24), DINOConfig(latent_dim=24, local_size=16), patches)
    assert torch.equal(set_up_wrapper(views="native")(pictures(2)), set_up_wrapper(configs=options)(pictures(2)))


def test_the_budget_plan_has_nine_patches() -> None:
    wrapper = set_up_wrapper(views="budget")
    assert [extractor.views.n_views for extractor in wrapper.extractors] == [1, 12, 9]
    assert set(wrapper.extractors[2].views.sizes) == {24}  # 5/8 of 32 pixels, in patches of 8
    assert wrapper(pictures(2)).shape == (2, 3 * 24)


def test_a_transform_returns_a_list_with_the_views_of_each_size() -> None:
    dino = wrap(views="native").extractors[1]
    assert [tuple(views.shape) for views in dino.transform(pictures(1)[0])] == [(2, 3, 32, 32), (10, 3, 16, 16)]


def test_a_saved_wrapper_keeps_its_plan(tmp_path: Path) -> None:
    model = build("timm")
    wrapper = set_up_wrapper(model=model, views="native")
    wrapper.save(tmp_path / "saved")
    loaded_wrapper = FUNGIWrapper.load(tmp_path / "saved", model, "cpu")
    assert loaded_wrapper.views == "native"
    assert torch.equal(loaded_wrapper(pictures(2)), wrapper(pictures(2)))


def test_an_unknown_view_plan_is_refused_with_a_similar_name() -> None:
    with pytest.raises(FungiError, match=r"'nativ'.*native"):
        wrap(views="nativ")


class OwnExtractor(BaseGradientExtractor):
    """A custom extractor. Its constructor does not accept a view plan."""

    def __init__(self, model, target_layer, device, embeddings_dim, input_dim, seed, image_input, **others) -> None:
        assert "view_plan" not in others
        super().__init__(model, target_layer, device, embeddings_dim=embeddings_dim, input_dim=input_dim, seed=seed)

    def input_transform(self, input_dim: int):
        return lambda image: torch.ones(3, input_dim, input_dim)

    def compute_loss(self, latents, views_per_sample, **kwargs):
        return latents.square().mean()


class OwnConfig:
    """The configuration of `OwnExtractor`."""

    def get_extractor(self, base_params: dict) -> OwnExtractor:
        return OwnExtractor(**base_params)


def test_custom_extractors_need_no_view_plan_for_published_views() -> None:
    assert wrap(configs=(OwnConfig(),))(pictures(1)).shape == (1, 24)


def test_published_views_are_the_default() -> None:
    assert wrap().views == "published"
    assert torch.equal(
        set_up_wrapper()(pictures(2)), set_up_wrapper(views="published", configs=SMALL_CONFIGS)(pictures(2))
    )
