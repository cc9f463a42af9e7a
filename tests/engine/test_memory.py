"""The model and the free memory decide the size of groups; if memory runs out, groups are halved once."""

import pytest
import torch
from torch import Tensor

from fungi.backbones.base import BACKBONES
from fungi.backbones.encoders import Encoded, WholeModel
from fungi.errors import FungiError
from fungi.gradients.engine import GradientEngine
from fungi.gradients.group_size import MOST_ON_GPU, SHARE, bytes_per_view, largest_fitting
from fungi.gradients.targets import find_targets
from tests.engine.golden import PreparedViews
from tests.engine.models import build, contrast
from tests.engine.test_laws import assert_same_gradient, views_of

CPU, GIB = torch.device("cpu"), 2**30


class Small(WholeModel):
    """An encoder on a device whose memory is sufficient for a few views only."""

    def __init__(self, model: torch.nn.Module, room: int) -> None:
        super().__init__(model)
        self.room, self.tried = room, []

    def __call__(self, inputs: Tensor, /) -> Encoded:
        self.tried.append(len(inputs))
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().__call__(inputs)


def engine_with_room_for(views: int, views_per_forward: int) -> GradientEngine:
    model, layers = build("attention projection, last block")
    engine = GradientEngine(model, find_targets(model, layers), device=CPU, views_per_forward=views_per_forward)
    return engine.with_encoder(lambda model: Small(model, views))


def gradients(engine: GradientEngine) -> Tensor:
    return engine.extract(views_of(8), PreparedViews(3), {"contrast": contrast}).gradients["contrast"]["attn_proj"]


def test_a_group_that_does_not_fit_is_halved_and_gives_the_same_gradients() -> None:
    engine = engine_with_room_for(6, views_per_forward=12)
    actual = gradients(engine)
    assert engine.encoder.tried == [12, 6, 6, 6, 6]  # a size that did not fit is not tried again
    assert engine.views_per_forward == 6
    assert_same_gradient(actual, gradients(engine_with_room_for(24, views_per_forward=6)))
    engine.encoder.tried.clear()
    assert engine.embed(views_of(8), PreparedViews(3)).shape == (8, 3, 24)
    assert engine.encoder.tried == [6] * 4


@pytest.mark.parametrize(("room", "views_per_forward"), [(3, 24), (2, 3), (2, 24)])
def test_the_error_names_the_flag_if_half_a_group_does_not_fit(room: int, views_per_forward: int) -> None:
    engine = engine_with_room_for(room, views_per_forward)
    half = max(1, engine.views_per_forward // (4 if views_per_forward == 24 else 2))
    with pytest.raises(FungiError, match=f"too small for .* views at once.*--views-per-forward {half} "):
        gradients(engine)


def needed(name: str, size: int | None = None, layers: tuple[str, ...] = (), pooled: bool = True) -> int:
    with torch.device("meta"):
        model = BACKBONES[name].build()
    if size is not None:
        model.set_input_size(img_size=(size, size))
    return bytes_per_view(model, layers, torch.bfloat16, pooled=pooled)


def test_large_models_get_small_groups_within_the_share_of_memory() -> None:
    assert largest_fitting(40 * GIB, needed("vit-b16")) == MOST_ON_GPU
    large = needed("dinov2_vitg14", size=518)
    assert MOST_ON_GPU * large > 60e9  # bytes of a group of fixed size
    for memory in (16 * GIB, 40 * GIB, 80 * GIB):
        assert 1 < largest_fitting(memory, large) < MOST_ON_GPU
        assert largest_fitting(memory, large) * large <= SHARE * memory
    assert largest_fitting(1, large) == 1
    assert largest_fitting(80 * GIB, 0) == MOST_ON_GPU  # a model of unknown size


def test_blocks_in_the_graph_need_more_memory() -> None:
    last = needed("vit-b16", layers=("blocks.11.attn.proj",), pooled=False)
    early = needed("vit-b16", layers=("blocks.1.attn.proj",), pooled=False)
    assert needed("vit-b16", layers=("blocks.11.attn.proj",)) < last < early / 4
