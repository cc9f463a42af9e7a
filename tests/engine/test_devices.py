"""The tensors of a batch stay on the GPU, and the host never waits for the GPU within a batch.

The tests use fake tensors, which have a device and a shape but no numbers. Operations that read a number, select rows
by a mask or mix devices raise errors. `WaitRecorder` records copies. The backward pass is replaced, because it needs a
driver; other tests check it on the CPU.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeCopyMode
from torch.utils._python_dispatch import TorchDispatchMode

from fungi.backbones import encoders
from fungi.backbones.masked_autoencoder import masked_autoencoder
from fungi.data.base import Samples
from fungi.gradients.core import Feature, FiniteCheck, compute
from fungi.gradients.engine import GradientEngine
from fungi.gradients.projection import DenseProjector, draw_projection
from fungi.gradients.targets import find_targets
from fungi.objectives.base import support_on
from fungi.objectives.binding import BoundObjective, bind
from fungi.objectives.simclr import SimCLR
from fungi.views import patches, pixels
from fungi.views.base import Grouping
from fungi.views.image import ImageInput
from fungi.views.loading import batch_of_images, prepare
from tests.daily import slow_after_first
from tests.library.models import build, pictures
from tests.modalities.cases import CASES, Case
from tests.objectives.test_mae import PROJECTION, SIZES

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
IMAGES = ImageInput(size=32, resize=36)
# Name of a case -> objective, and its options.
OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "kl": ("kl", {}),
    "dino": ("dino", {"skip_same_view": True}),
    "simclr": ("simclr", {}),
    "simclr, random crops": ("simclr", {"view_generator": "random-crops", "n_views": 3}),
    "simclr, mixed negatives": ("simclr", {"negatives_mixing": True, "mixed_negatives": 2}),
    "simclr, without itself": ("simclr", {"exclude_self_from_negatives": True}),
    "deepcluster": ("deepcluster", {}),
    "ibot": ("ibot", {"patch_size": 8, "mask_seed": 3}),
    "mim": ("mim", {"patch_size": 8}),
}


class WaitRecorder(TorchDispatchMode):
    """A recorder of copies that the host waits for: all copies from the device, and synchronous copies to it."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        name = function.name()
        if name in ("aten::_to_copy", "aten::copy_") and isinstance(output, Tensor):
            source = args[0] if name == "aten::_to_copy" else args[1]
            if source.device != output.device and (output.device.type == "cpu" or not kwargs.get("non_blocking")):
                self.copies.append(f"{name} of {list(source.shape)} from {source.device} to {output.device}")
        return output


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Return a mode of fake tensors. Gradients are zeros, and shares of mixed negatives are drawn without a seed."""

    def zero_gradients(roots: Any, inputs: Any, **_: Any) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(tensor) for tensor in inputs)

    cached_functions = (pixels.channel_statistics, patches.resize_matrix, encoders.mask_vector)
    for function in cached_functions:
        function.cache_clear()

    def shares_without_seed(self: SimCLR, views: int, support: dict[str, Tensor]) -> Tensor:
        assert support["mixing_seed"].device == CPU  # the host can read it without waiting for the GPU
        return torch.rand(views, self.mixed_negatives)

    monkeypatch.setattr(torch.autograd, "grad", zero_gradients)
    monkeypatch.setattr(SimCLR, "_shares", shares_without_seed)
    yield FakeTensorMode()
    for function in cached_functions:
        function.cache_clear()


def support_of(objective: BoundObjective) -> dict[str, Tensor]:
    """Return supporting data of the correct shape."""
    if not objective.objective.needs_support:
        return {}
    embeddings = torch.zeros(6, objective.support_views.n_views, 24)
    train = Samples(np.zeros(6, dtype=np.uint32), [*"abcdef"], lambda row: None)
    return objective.objective.support(train, lambda _: embeddings, objective.heads, seed=0)


def moved_to_gpu(module: nn.Module) -> nn.Module:
    """Move a module to the GPU, and return it. `module.to(CUDA)` does not support fake parameters."""
    for child in module.modules():
        for tensors in (child._parameters, child._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    values = tensor.data.to(CUDA)
                    is_parameter = tensors is child._parameters
                    tensors[name] = nn.Parameter(values, requires_grad=False) if is_parameter else values
    return module


def waits_of_batch(
    mode: FakeTensorMode, model: nn.Module, layers: tuple[str, ...], objective: BoundObjective, batch: Any
) -> list[str]:
    """Return the copies that the host waits for in a second batch. The first batch fills caches."""
    projectors = [
        DenseProjector(draw_projection(4, target.gradient_dim), CPU, torch.float32)
        for target in find_targets(model, layers)
    ]
    bound = replace(objective, support=support_of(objective))
    with FakeCopyMode(mode):
        model, bound, batch, projectors = deepcopy((model, bound, batch, projectors))
    with mode:
        bound = replace(bound, heads=moved_to_gpu(bound.heads), support=support_on(CUDA, bound.support))
        engine = GradientEngine(moved_to_gpu(model), find_targets(model, layers), device=CUDA, views_per_forward=30)
        for target, projector in zip(engine.targets, projectors, strict=True):
            projector._dense = projector._dense.to(CUDA)
            engine.projectors[target.name] = projector
        engine = engine.with_encoder(bound.objective.encoder)
        features = [Feature("x", bound.views, engine, bound.loss)]
        prepared = {bound.views.identity: batch}
        compute(prepared, features)
        with WaitRecorder() as recorder:
            rows = compute(prepared, features)
            FiniteCheck().add(rows)
    assert all(values.device == CUDA for values in rows["x"].values())
    return recorder.copies


@pytest.mark.parametrize("name", slow_after_first(OBJECTIVES))
def test_a_batch_of_images_never_waits_for_the_device(name: str, gpu: FakeTensorMode) -> None:
    objective, options = OBJECTIVES[name]
    bound = bind(objective, embedding_dim=24, input_spec=IMAGES, seed=0, options=options)
    batch = batch_of_images(pictures(3), [bound.views], seed=0)[bound.views.identity]
    assert waits_of_batch(gpu, build("timm").eval(), ("blocks.1.attn.proj",), bound, batch) == []


@pytest.mark.slow
def test_a_masked_autoencoder_never_waits_for_the_device(gpu: FakeTensorMode) -> None:
    from transformers import ViTMAEConfig

    bound = bind("mae", embedding_dim=24, input_spec=IMAGES, seed=0, options={"patch_size": 8})
    batch = batch_of_images(pictures(3), [bound.views], seed=0)[bound.views.identity]
    model = masked_autoencoder(ViTMAEConfig(**SIZES)).eval()
    assert waits_of_batch(gpu, model, (PROJECTION,), bound, batch) == []


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["kl", "simclr"])
@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_texts_or_sounds_never_waits_for_the_device(
    name: str, objective: str, gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    case: Case = CASES[name]
    bound = bind(objective, embedding_dim=24, input_spec=case.spec.input, seed=0)
    batch = bound.views.collate([prepare(bound.views, item, seed=0, sample_id="a") for item in case.items()])
    if isinstance(bound.views, Grouping):  # groups depend on the lengths, which fake tensors do not have
        groups = list(bound.views.groups(batch, 2))
        with FakeCopyMode(gpu):
            fake_groups = deepcopy(groups)
        monkeypatch.setattr(type(bound.views), "groups", lambda self, batch, size: iter(fake_groups))
    assert waits_of_batch(gpu, case.model(), case.layers, bound, batch) == []


def test_these_tests_detect_copies_and_operations_that_wait(gpu: FakeTensorMode) -> None:
    with gpu:
        values = torch.zeros(3, device=CUDA)
        with WaitRecorder() as recorder:
            values.cpu()
            torch.zeros(3).to(CUDA)
            torch.zeros(3).to(CUDA, non_blocking=True)
        assert len(recorder.copies) == 2
        for wait in (lambda: float(values.sum()), lambda: bool((values > 0).all()), lambda: values[values > 0]):
            with pytest.raises(Exception, match="aten"):
                wait()
