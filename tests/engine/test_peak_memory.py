"""Every registered backbone fits into GPUs of 40 and 80 GB with its number of views per forward, in float32.

Fake tensors have sizes but no numbers. The tests count the bytes that a GPU would need for the weights and the views,
and for all other tensors that exist at the same time in the forward pass or the backward pass.
Memory that the allocator of torch cannot use, and the workspace of CUDA libraries, are not counted.
"""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fungi.backbones.base import BACKBONES
from fungi.backbones.pooled_token import PooledTokenEncoder
from fungi.gradients.capture import Capture, frozen
from fungi.gradients.engine import GradientEngine
from fungi.gradients.group_size import MAX_VIEWS_ON_GPU, SHARE, bytes_per_view, largest_fitting
from fungi.gradients.targets import find_targets

GIB = 2**30
VISION = [name for name in BACKBONES.names() if BACKBONES[name].modality == "vision"]
MODE = FakeTensorMode()
FAST = ("digits-vit", "vit-s16")


class PeakMemory(TorchDispatchMode):
    """A counter of the bytes of all existing tensors. Tensors that share memory count once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.bytes = self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = function(*args, **(kwargs or {}))
        for storage in (leaf.untyped_storage() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)):
            key = storage._cdata
            if key not in self.sizes:
                self.sizes[key] = storage.nbytes()
                self.bytes += storage.nbytes()
                self.largest = max(self.largest, self.bytes)
                weakref.finalize(storage, self._free, key)
        return outputs

    def _free(self, key: int) -> None:
        self.bytes -= self.sizes.pop(key)


def fake_model(name: str, size: int | None = None) -> nn.Module:
    """Return a backbone with fake tensors. It is built on the meta device, because its construction reads numbers."""
    with torch.device("meta"):
        model: Any = BACKBONES[name].build()
        if size is not None:
            model.set_input_size(img_size=(size, size))
    with MODE:
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for key, tensor in tensors.items():
                    if tensor is not None:
                        fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                        is_buffer = tensors is module._buffers
                        tensors[key] = fake if is_buffer else nn.Parameter(fake, requires_grad=False)
    return model.eval()


def engine_of(model: nn.Module, layer: str) -> GradientEngine:
    with MODE:
        return GradientEngine(model, find_targets(model, (f"{layer}:layer",)), device=torch.device("cpu"))


def bytes_of_weights(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def views_of(model: nn.Module, layer: str, memory: int) -> tuple[int, int]:
    """Return the views per forward on a GPU with this memory in bytes, and the estimated bytes per view."""
    pooled = isinstance(engine_of(model, layer).encoder, PooledTokenEncoder)
    estimate = bytes_per_view(model, [layer], torch.float32, pooled=pooled)
    return largest_fitting(memory - bytes_of_weights(model), estimate), estimate


def peak_of(model: nn.Module, layer: str, size: int, views: int) -> int:
    """Return the peak bytes with this number of views per forward, with the weights."""
    engine = engine_of(model, layer)
    with MODE, PeakMemory() as peak:
        images = torch.empty(views, 3, size, size)
        with torch.enable_grad(), frozen(model), Capture(model, engine.targets, {}) as capture:
            loss = engine.encoder(images).pooled.square().sum()
            signals = capture.signals([loss], [torch.ones_like(loss)], keep_graph=False)
    assert signals
    return peak.largest + bytes_of_weights(model)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in VISION]
)
def test_every_backbone_fits_a_gpu_at_its_group_size(name: str) -> None:
    """The peak is the same for both GPUs if they have the same number of views per forward."""
    spec, model = BACKBONES[name], fake_model(name)
    peaks: dict[int, int] = {}
    for memory in (40 * GIB, 80 * GIB):
        views, estimate = views_of(model, spec.layer, memory)
        if views not in peaks:
            peaks[views] = peak_of(model, spec.layer, spec.input.size, views)
        assert peaks[views] <= 0.75 * memory  # a quarter remains for the memory that is not counted
        if estimate and views == MAX_VIEWS_ON_GPU:
            # The right side is the smallest free memory for which the estimate allows this number of views.
            assert peaks[views] - bytes_of_weights(model) <= estimate * views / SHARE


@pytest.mark.slow
def test_the_largest_number_of_views_per_forward_would_not_fit() -> None:
    name = "dinov2_vitg14"
    model, layer = fake_model(name, size=518), BACKBONES[name].layer
    views, _ = views_of(model, layer, 40 * GIB)
    assert peak_of(model, layer, 518, MAX_VIEWS_ON_GPU) > 80 * GIB
    assert peak_of(model, layer, 518, views) <= 0.75 * 40 * GIB


def test_peak_memory_counts_neither_freed_tensors_nor_views_of_tensors() -> None:
    with MODE, PeakMemory() as peak:
        permanent = torch.empty(1000)
        for _ in range(3):
            temporary = torch.empty(500)
            del temporary
        assert permanent.view(10, 100).shape == (10, 100)
    assert peak.largest == 4 * 1500  # bytes of float32 numbers
