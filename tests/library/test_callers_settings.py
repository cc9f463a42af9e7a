"""Features do not depend on the caller's settings of torch: autocast, inference mode, default dtype and device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from fungi.config import KLConfig
from fungi.errors import FungiError
from fungi.wrapper import FUNGIWrapper
from tests.library.models import LAYERS, build, dataset, pictures, set_up_wrapper, wrap


@contextmanager
def float64_by_default():
    """Make float64 the default dtype of torch."""
    earlier_dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(earlier_dtype)


# Name of a setting -> function that returns a context manager with this setting.
CALLER_SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": lambda: torch.inference_mode(),
    "no gradients": lambda: torch.no_grad(),
    "default dtype": float64_by_default,
    "default device": lambda: torch.device("meta"),
}


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    """Return the features with torch's default settings."""
    return set_up_wrapper(include_embeddings=True)(pictures(3))


@pytest.mark.parametrize("setting", CALLER_SETTINGS)
def test_features_do_not_depend_on_settings_during_the_call(expected: torch.Tensor, setting: str) -> None:
    wrapper = set_up_wrapper(include_embeddings=True)
    with CALLER_SETTINGS[setting]():
        features = wrapper(pictures(3))
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)


@pytest.mark.parametrize("setting", CALLER_SETTINGS)
def test_features_do_not_depend_on_settings_during_construction_and_call(expected: torch.Tensor, setting: str) -> None:
    model = build("timm")
    with CALLER_SETTINGS[setting]():
        features = set_up_wrapper(model=model, include_embeddings=True)(pictures(3))
    assert torch.equal(features, expected)


def features_after_every_step(model: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """Return the features of a wrapper after its setup, after PCA, and after saving and loading."""
    wrapper = wrap(model=model, configs=[KLConfig(latent_dim=24)], include_embeddings=True)
    wrapper.setup(dataset(4), check_independence=True)
    results = {"extract": wrapper.extract(pictures(3), batch_size=2)}
    wrapper.fit_pca(wrapper.extract(pictures(5)), 3)
    results["reduced"] = wrapper(pictures(3))
    wrapper.save(folder)
    results["loaded"] = FUNGIWrapper.load(folder, model, "cpu")(pictures(3))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("setting", CALLER_SETTINGS)
def test_extract_pca_and_loading_do_not_depend_on_settings_of_the_caller(setting: str, tmp_path: Path) -> None:
    model = build("timm")
    expected = features_after_every_step(model, tmp_path / "outside")
    with CALLER_SETTINGS[setting]():
        features = features_after_every_step(model, tmp_path / "inside")
    for name, rows in expected.items():
        assert torch.equal(features[name].clone(), rows), name


def test_settings_of_the_caller_are_restored() -> None:
    wrapper = set_up_wrapper()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), float64_by_default():
        wrapper(pictures(1))
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() == torch.float64


def test_a_model_that_was_created_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = build("timm")
    with pytest.raises(FungiError, match=r"created inside torch\.inference_mode\(\).*Create the model outside"):
        wrap(model=model, layer=LAYERS["timm"])
