"""What a caller has set for torch changes no feature: autocast, inference mode, default dtype and device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from fungi.errors import FungiError
from tests.library.models import LAYERS, build, pictures, ready, wrap


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
def test_features_do_not_depend_on_what_the_caller_set_around_the_call(
    expected: torch.Tensor, surroundings: str
) -> None:
    wrapper = ready(include_embeddings=True)
    with SURROUNDINGS[surroundings]():
        features = wrapper(pictures(3))
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_features_do_not_depend_on_what_the_caller_set_around_everything(
    expected: torch.Tensor, surroundings: str
) -> None:
    model = build("timm")
    with SURROUNDINGS[surroundings]():
        features = ready(model=model, include_embeddings=True)(pictures(3))
    assert torch.equal(features, expected)


def test_what_the_caller_set_holds_again_afterwards() -> None:
    wrapper = ready()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode(), doubles():
        wrapper(pictures(1))
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() == torch.float64


def test_a_model_made_in_inference_mode_is_refused_in_words() -> None:
    with torch.inference_mode():
        model = build("timm")
    with pytest.raises(FungiError, match=r"made inside torch\.inference_mode\(\).*Make the model outside"):
        wrap(model=model, layer=LAYERS["timm"])
