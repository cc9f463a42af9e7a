"""A run of `fungi udi segment-fpn`: cross-entropy of pixels on random crops, and mIoU of whole images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, pad

from fungi.backbones.loading import Backbone
from fungi.data.base import VOID, MaskRules, resolve_dataset
from fungi.errors import FungiError
from fungi.evaluators.segmentation import confusion, segmentation_scores
from fungi.pretraining.batch_plan import BatchPlan
from fungi.pretraining.dense.scenes import TrainScenes, WholeScenes
from fungi.pretraining.dense.schedules import warmed_up
from fungi.pretraining.dense.semantic_head import SemanticFpn
from fungi.pretraining.dense.settings import SegmentFpnSettings
from fungi.pretraining.dense.training import DenseTraining
from fungi.pretraining.processes import World
from fungi.runtime.device import autocast
from fungi.runtime.seeds import seeded
from fungi.runtime.transfers import upload
from fungi.views.pixels import normalize

FIRST_FACTOR = 1e-6
"""Learning rate of the first step of the warm-up, as a share of the peak."""


class Segmentation(DenseTraining):
    """One process's part in a run."""

    command = "fungi udi segment-fpn"

    def __init__(self, settings: SegmentFpnSettings, backbone: Backbone, world: World, device: torch.device) -> None:
        dataset = resolve_dataset(settings.dataset, settings.data_dir)
        if dataset.masks is None or dataset.classes is None:
            raise FungiError(f"dataset {dataset.name!r} has no masks. Use ade20k, pascal-voc or digit-scenes.")
        self.rules, self.classes = dataset.masks, trained_classes(dataset.classes, dataset.masks)
        rows, scored = (dataset.open_split(split, settings.data_dir) for split in ("train", "test"))
        self.images = TrainScenes(rows, settings.size, settings.seed)
        self.scored = WholeScenes(scored, settings.size)
        self.settings, self.statistics = settings, backbone.input.statistics
        network = SemanticFpn(backbone, len(self.classes), settings)
        self.multiple = 2 * network.pyramid.patch_size
        rates = settings.lr * (1 - np.arange(settings.steps) / settings.steps)
        super().__init__(
            settings,
            backbone,
            network,
            BatchPlan(len(rows), settings.batch_size, processes=world.size, seed=settings.seed),
            warmed_up(rates, settings.warmup_steps, FIRST_FACTOR),
            settings.steps // settings.epoch_steps,
            world,
            device,
            {"images": rows.fingerprint(), "scored images": scored.fingerprint()},
        )

    def losses(self, epoch: int) -> Iterator[Float[Tensor, ""]]:
        """Yield the cross-entropy of the labelled pixels of each batch; their mean is over all processes."""
        numbers = torch.from_numpy(numbers_of(self.classes, self.rules)).to(self.device)
        for step, batch in self.batches(self.images, epoch):
            images, masks = (upload(torch.stack(items), self.device) for items in zip(*batch, strict=True))
            with seeded(self.settings.seed, "segment-fpn", step, self.world.rank):  # dropout, stochastic depth
                logits = self._logits(self.parallel, images)
            targets = numbers[masks[:, 0].long()]  # [n 1 h w] -> [n h w]
            labelled = self.world.summed((targets != VOID).sum().float()) / self.world.size
            yield cross_entropy(logits, targets, ignore_index=VOID, reduction="sum") / labelled.clamp_min(1)

    @torch.no_grad()
    def scores(self) -> dict[str, float]:
        """Return mIoU and pixel accuracy at the images' own size; each process scores a part of the images."""
        self.model.eval()
        rows = range(self.world.rank, len(self.scored.samples), self.world.size)
        classes = len(self.rules.unscored) + len(self.classes)
        matrix = np.zeros((classes, classes), dtype=np.int64)
        numbers = torch.tensor(self.classes)
        for image, mask in self.items(self.scored, rows):
            logits = self._logits(self.model, upload(image, self.device)[None])
            largest = interpolate(logits, mask.shape, mode="bilinear")[0].argmax(dim=0)
            matrix += confusion(mask.numpy(), numbers[largest.cpu()].numpy(), classes, self.rules.ignored)
        total = self.world.summed(torch.as_tensor(matrix, dtype=torch.float64, device=self.device))
        scores = segmentation_scores(total.cpu().numpy().astype(np.int64), self.rules.unscored)
        return {name: scores[name] for name in ("mIoU", "pixel-accuracy")}

    def _logits(self, model: Any, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h w"]:
        """Return logits of the size of the images, which are padded to whole pairs of patches in between."""
        height, width = images.shape[-2:]
        pixels = normalize(images.float() / 255, self.statistics)
        padded = pad(pixels, (0, -width % self.multiple, 0, -height % self.multiple))
        with autocast(self.device, self.dtype):
            logits = model(padded).float()
        return interpolate(logits, padded.shape[-2:], mode="bilinear")[..., :height, :width]


def trained_classes(classes: int, rules: MaskRules) -> list[int]:
    """Return the classes that the head predicts: those that are scored."""
    return [number for number in range(classes) if number not in rules.unscored]


def numbers_of(classes: list[int], rules: MaskRules) -> Int64[np.ndarray, "256"]:
    """Return the head's output number for each value of a mask; VOID for what is not trained."""
    numbers = np.full(VOID + 1, VOID, dtype=np.int64)
    numbers[classes] = np.arange(len(classes))
    numbers[rules.ignored] = VOID
    return numbers
