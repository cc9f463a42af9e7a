"""Settings of the caller for torch do not change features: autocast, inference mode, default dtype and device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from fungi.config import KLConfig
from fungi.errors import FungiError
from fungi.wrapper import FUNGIWrapper
from tests.library.models import LAYERS, build, dataset, pictures, ready, wrap


@contextmanager
def doubles():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": lambda: torch.inference_mode(),
    "no gradients": lambda: torch.no_grad(),
    "default dtype": doubles,
    "default device": lambda: torch.device("meta"),
}


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return ready(include_embeddings=True)(pictures(3))


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_features_do_not_depend_on_settings_during_the_call(expected: torch.Tensor, surroundings: str) -> None:
    wrapper = ready(include_embeddings=True)
    with SURROUNDINGS[surroundings]():
        features = wrapper(pictures(3))
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_features_do_not_depend_on_settings_during_construction_and_call(
    expected: torch.Tensor, surroundings: str
) -> None:
    model = build("timm")
    with SURROUNDINGS[surroundings]():
        features = ready(model=model, include_embeddings=True)(pictures(3))
    assert torch.equal(features, expected)


def life(model: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
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
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_extract_pca_and_loading_do_not_depend_on_settings_of_the_caller(surroundings: str, tmp_path: Path) -> None:
    model = build("timm")
    expected = life(model, tmp_path / "outside")
    with SURROUNDINGS[surroundings]():
        features = life(model, tmp_path / "inside")
    for name, rows in expected.items():
        assert torch.equal(features[name].clone(), rows), name


def test_settings_of_the_caller_are_restored() -> None:
    wrapper = ready()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), doubles():
        wrapper(pictures(1))
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() == torch.float64


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = build("timm")
    with pytest.raises(FungiError, match=r"created inside torch\.inference_mode\(\).*Create the model outside"):
        wrap(model=model, layer=LAYERS["timm"])
