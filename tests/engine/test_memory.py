"""The number of views per forward depends on the model and the free memory, and is halved once if memory runs out."""

import pytest
import torch
from torch import Tensor

from fungi.backbones.base import BACKBONES
from fungi.backbones.encoders import Encoded, WholeModel
from fungi.errors import FungiError
from fungi.gradients.engine import GradientEngine
from fungi.gradients.group_size import MAX_VIEWS_ON_GPU, SHARE, bytes_per_view, largest_fitting
from fungi.gradients.targets import find_targets
from tests.engine.golden import PreparedViews
from tests.engine.models import build, contrast
from tests.engine.test_laws import assert_same_gradient, views_of

CPU, GIB = torch.device("cpu"), 2**30


class LimitedEncoder(WholeModel):
    """An encoder on a device whose memory is sufficient for a few views only."""

    def __init__(self, model: torch.nn.Module, max_views: int) -> None:
        super().__init__(model)
        self.max_views, self.group_sizes = max_views, []

    def __call__(self, inputs: Tensor, /) -> Encoded:
        self.group_sizes.append(len(inputs))
        if len(inputs) > self.max_views:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().__call__(inputs)


def engine_with_memory_for(max_views: int, views_per_forward: int) -> GradientEngine:
    """Return an engine whose encoder fails for more than `max_views` views at once."""
    model, layers = build("attention projection, last block")
    engine = GradientEngine(model, find_targets(model, layers), device=CPU, views_per_forward=views_per_forward)
    return engine.with_encoder(lambda model: LimitedEncoder(model, max_views))


def gradients(engine: GradientEngine) -> Tensor:
    """Return the gradients of eight samples with three views."""
    return engine.extract(views_of(8), PreparedViews(3), {"contrast": contrast}).gradients["contrast"]["attn_proj"]


def test_a_group_that_does_not_fit_is_halved_and_gives_the_same_gradients() -> None:
    engine = engine_with_memory_for(6, views_per_forward=12)
    actual = gradients(engine)
    assert engine.encoder.group_sizes == [12, 6, 6, 6, 6]  # the group of 12 failed once, and 12 is not used again
    assert engine.views_per_forward == 6
    assert_same_gradient(actual, gradients(engine_with_memory_for(24, views_per_forward=6)))
    engine.encoder.group_sizes.clear()
    assert engine.embed(views_of(8), PreparedViews(3)).shape == (8, 3, 24)
    assert engine.encoder.group_sizes == [6] * 4


@pytest.mark.parametrize(("max_views", "views_per_forward"), [(3, 24), (2, 3), (2, 24)])
def test_the_error_names_the_flag_if_half_a_group_does_not_fit(max_views: int, views_per_forward: int) -> None:
    engine = engine_with_memory_for(max_views, views_per_forward)
    # A group of 24 views is halved once before the error. A group of one sample (3 views) can't be halved. The error
    # names half of the last number.
    smaller_number = views_per_forward // (4 if views_per_forward == 24 else 2)
    with pytest.raises(FungiError, match=f"too small for .* views at once.*--views-per-forward {smaller_number} "):
        gradients(engine)


def bytes_per_view_of(name: str, size: int | None = None, layers: tuple[str, ...] = (), pooled: bool = True) -> int:
    """Return the estimated bytes per view for a backbone. size: side of the images in pixels."""
    with torch.device("meta"):
        model = BACKBONES[name].build()
    if size is not None:
        model.set_input_size(img_size=(size, size))
    return bytes_per_view(model, layers, torch.bfloat16, pooled=pooled)


def test_large_models_get_small_groups_within_the_share_of_memory() -> None:
    assert largest_fitting(40 * GIB, bytes_per_view_of("vit-b16")) == MAX_VIEWS_ON_GPU
    large_view = bytes_per_view_of("dinov2_vitg14", size=518)
    assert MAX_VIEWS_ON_GPU * large_view > 60e9  # a group of the largest size would need more than 60 GB
    for memory in (16 * GIB, 40 * GIB, 80 * GIB):
        assert 1 < largest_fitting(memory, large_view) < MAX_VIEWS_ON_GPU
        assert largest_fitting(memory, large_view) * large_view <= SHARE * memory
    assert largest_fitting(1, large_view) == 1
    assert largest_fitting(80 * GIB, 0) == MAX_VIEWS_ON_GPU  # the size of a view is not known


def test_earlier_gradient_sources_need_more_memory() -> None:
    """Compare the last block with the short cut of the pooled token, the last block without it, and an early block."""
    short_cut = bytes_per_view_of("vit-b16", layers=("blocks.11.attn.proj",))
    last_block = bytes_per_view_of("vit-b16", layers=("blocks.11.attn.proj",), pooled=False)
    early_block = bytes_per_view_of("vit-b16", layers=("blocks.1.attn.proj",), pooled=False)
    assert short_cut < last_block < early_block / 4
