"""Value and derivative of the token loss equal InfoNCE by autograd; the derivative also equals finite differences."""

import pytest
import torch
from torch import Tensor

from fungi.objectives.simclr import info_nce
from fungi.segmentation.contrast import contrast


def random_latents(tokens: int, negatives: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return latents of tokens, which require gradients, and latents of negatives."""
    generator = torch.Generator().manual_seed(tokens)
    latents = torch.randn(tokens, 5, generator=generator, dtype=dtype).requires_grad_()
    return latents, torch.randn(negatives, 5, generator=generator, dtype=dtype)


def value_and_derivative(latents: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, and its derivative with respect to the latents."""
    return loss.detach(), torch.autograd.grad(loss, latents)[0]


@pytest.mark.parametrize("denominator_temperature", [True, False])
@pytest.mark.parametrize(("tokens", "negatives"), [(2, 1), (9, 7), (300, 40), (513, 3)])
def test_value_and_derivative_equal_info_nce(tokens: int, negatives: int, denominator_temperature: bool) -> None:
    latents, negative_latents = random_latents(tokens, negatives)
    options = {"temperature": 0.07, "denominator_temperature": denominator_temperature}
    actual = value_and_derivative(latents, contrast(latents, negative_latents, **options))
    expected = value_and_derivative(latents, info_nce(latents[None], negative_latents, **options)[0])
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(actual[1], expected[1], rtol=0, atol=1e-13 * float(expected[1].abs().max()))


def test_the_derivative_of_a_scaled_loss_equals_finite_differences() -> None:
    latents, negatives = random_latents(tokens=6, negatives=4)
    assert torch.autograd.gradcheck(lambda values: 3 * contrast(values, negatives, temperature=0.3), latents)


@pytest.mark.parametrize("sign", [1, -1])
def test_small_temperatures_neither_overflow_nor_underflow(sign: int) -> None:
    """Vectors are equal or opposite, so cosine / temperature is +-200. exp(200) is out of the range of float32."""
    latents = torch.ones(2, 5) * torch.tensor([[1.0], [sign]])
    latents.requires_grad_()
    loss, derivative = value_and_derivative(latents, contrast(latents, -latents.detach()[1:], temperature=0.005))
    exact = torch.logsumexp(torch.tensor([[200.0, -200.0], [200.0 * sign, -200.0]]), dim=1).mean() - 200 * sign
    torch.testing.assert_close(loss, exact, rtol=1e-5, atol=1e-3)
    assert bool(derivative.isfinite().all())


def test_float32_agrees_with_float64() -> None:
    latents, negatives = random_latents(tokens=300, negatives=200)
    exact = value_and_derivative(latents, contrast(latents, negatives, temperature=0.07))
    in_float32 = latents.detach().float().requires_grad_()
    rounded = value_and_derivative(in_float32, contrast(in_float32, negatives.float(), temperature=0.07))
    torch.testing.assert_close(rounded[0].double(), exact[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(rounded[1].double(), exact[1], rtol=0, atol=1e-5 * float(exact[1].abs().max()))
