"""The host never waits for the GPU while it computes embeddings or features of patches, and rarely during a search.

The tests use fake tensors, as `tests/engine/test_devices.py` explains.
"""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeCopyMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from fungi.evaluators.weighted_knn import weighted_knn
from fungi.gradients.core import Feature, FiniteCheck, compute
from fungi.gradients.engine import GradientEngine
from fungi.gradients.khatri_rao import make_projector
from fungi.gradients.projection import draw_projection
from fungi.gradients.targets import find_targets
from fungi.search.exact import nearest
from fungi.search.neighbours import in_windows
from fungi.search.stored import BankSearch
from fungi.segmentation import dense
from fungi.segmentation.dense import DenseExtractor, DenseLoss, Support
from fungi.store.banks import PatchRows
from fungi.views.loading import batch_of_images
from fungi.views.scenes import SceneView
from tests.engine.test_devices import CPU, CUDA, IMAGES, WaitRecorder, moved_to_gpu
from tests.engine.test_devices import gpu as gpu
from tests.library.models import SIZE, build, pictures


def test_float32_embeddings_never_wait_for_the_device(gpu: FakeTensorMode) -> None:
    plain = IMAGES.views("plain")
    batch, model = batch_of_images(pictures(3), [plain], seed=0), build("timm").eval()
    with FakeCopyMode(gpu):
        batch, model = deepcopy((batch, model))
    with gpu:
        engine = GradientEngine(moved_to_gpu(model), device=CUDA, views_per_forward=30)
        features = [Feature("embeddings", plain, engine)]
        compute(batch, features)  # fills caches
        with WaitRecorder() as recorder:
            computed = compute(batch, features)
            FiniteCheck().add(computed)
    assert recorder.copies == []
    assert computed["embeddings"]["embeddings"].device == CUDA


def test_features_of_patches_never_wait_for_the_device(gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bank is on the device. Random draws of the host have real values. No memory is pinned."""
    model: Any = build("timm").eval()
    (target,) = find_targets(model, ("blocks.1.attn.proj",))
    matrix = draw_projection(4, target.gradient_dim, kind="khatri-rao", outputs=target.shape[0])
    projector: Any = make_projector(matrix, CPU, torch.float32)
    draw_indices = DenseLoss.draw_indices

    def drawn_on_host(self: DenseLoss, tokens: int, draws: Any) -> Any:
        with unset_fake_temporarily():
            searched, chosen, counts = draw_indices(self, tokens, draws)
        return *(gpu.from_tensor(values) for values in (searched, chosen)), counts

    monkeypatch.setattr(DenseLoss, "draw_indices", drawn_on_host)
    monkeypatch.setattr(DenseExtractor, "_require_finite", lambda *_: None)  # waits once, at the end of a batch
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Tensor, "is_pinned", lambda self: False)
    search = BankSearch(PatchRows(np.zeros((50, 24), dtype=np.float32)), CPU)
    views = SceneView(size=SIZE, statistics=IMAGES.statistics, seed=0)
    with FakeCopyMode(gpu):
        model, head = deepcopy((model, Head(24, 96, bias=False)))
    shapes = [factor.shape for factor in matrix.factors()]
    with gpu:
        projector._outputs, projector._inputs = (torch.empty(shape, device=CUDA) for shape in shapes)
        targets = find_targets(moved_to_gpu(model), ("blocks.1.attn.proj",))
        search._device, bank = CUDA, torch.zeros(50, 24, device=CUDA)
        search._on_device.append(bank)
        monkeypatch.setattr(dense, "random_linear", lambda *_: moved_to_gpu(head))
        extractor = DenseExtractor(model, targets[0], projector, views, device=CUDA)
        images = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)
        support = Support(PatchRows(np.zeros((50, 24), dtype=np.float32)), search)
        extractor.features("embeddings+simclr", images, [1, 2], support)
        with WaitRecorder() as recorder:
            features = extractor.features("embeddings+simclr", images, [1, 2], support)
    assert features.device == CUDA
    assert recorder.copies == []


class Head(nn.Linear):
    """A head whose method `to` does nothing, because fake parameters do not support it."""

    def to(self, *_: Any) -> "Head":
        return self


class Readings(TorchDispatchMode):
    """A counter of the numbers that the host reads. On a GPU, the host waits for each number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.name() == "aten::_local_scalar_dense"
        return function(*args, **(kwargs or {}))


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


def test_a_search_reads_as_many_numbers_for_many_tiles_as_for_one() -> None:
    keys, counts = rows(120, seed=0), []
    for tile in (120, 10):
        with Readings() as readings:
            nearest(in_windows(PatchRows(keys.numpy()), tile, CPU), rows(5, seed=1), k=3)
        counts.append(readings.count)
    assert counts[0] == counts[1] > 0


def test_weighted_votes_read_as_many_numbers_for_many_queries_as_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fungi.evaluators.weighted_knn.QUERIES_PER_TILE", 8)
    counts, labels = [], torch.arange(80) % 3
    for queries in (8, 80):
        with Readings() as readings:
            weighted_knn(rows(80, seed=0), labels, rows(queries, seed=1), labels[:queries], neighbours=[1, 5])
        counts.append(readings.count)
    assert counts[0] == counts[1] > 0
