"""A run of `fungi udi segment-fpn`: cross-entropy of pixels on random crops, and mIoU of whole images."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, pad

from fungi.backbones.loading import Backbone
from fungi.data.base import VOID, DatasetSpec, MaskRules
from fungi.evaluators.segmentation import confusion, segmentation_scores
from fungi.pretraining.batch_plan import BatchPlan
from fungi.pretraining.dense.loading import loaded
from fungi.pretraining.dense.pyramid import decay_groups, synchronised
from fungi.pretraining.dense.scenes import TrainScenes, WholeScenes
from fungi.pretraining.dense.schedules import warmed_up
from fungi.pretraining.dense.semantic_head import SemanticFpn
from fungi.pretraining.dense.settings import SegmentFpnSettings
from fungi.pretraining.epochs import EpochTraining
from fungi.pretraining.processes import World, decoding_workers
from fungi.runtime.device import autocast, choose_dtype
from fungi.runtime.log import progress
from fungi.runtime.seeds import seeded
from fungi.runtime.transfers import upload
from fungi.views.pixels import normalize

FIRST_FACTOR = 1e-6
"""Learning rate of the first step of the warm-up, as a share of the peak."""


class Segmentation(EpochTraining):
    """One process's part in a run."""

    command = "fungi udi segment-fpn"

    def __init__(
        self,
        settings: SegmentFpnSettings,
        backbone: Backbone,
        dataset: DatasetSpec,
        world: World,
        device: torch.device,
    ) -> None:
        assert dataset.masks is not None
        assert dataset.classes is not None
        self.settings, self.backbone, self.rules = settings, backbone, dataset.masks
        self.classes = trained_classes(dataset.classes, dataset.masks)
        self.train_rows, self.scored_rows = (
            dataset.open_split(split, settings.data_dir) for split in ("train", "test")
        )
        self.plan = BatchPlan(len(self.train_rows), settings.batch_size, processes=world.size, seed=settings.seed)
        self.dtype = choose_dtype(settings.dtype, device)
        self.workers = decoding_workers(settings.num_workers, device)
        network = SemanticFpn(
            backbone,
            len(self.classes),
            blocks=settings.blocks,
            channels=settings.channels,
            drop_path=settings.drop_path,
            seed=settings.seed,
        )
        self.multiple = 2 * network.pyramid.patch_size
        model = synchronised(network, world, device)
        rates = settings.lr * (1 - np.arange(settings.steps) / settings.steps)
        super().__init__(
            model,
            torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=0.0),
            warmed_up(rates, settings.warmup_steps, FIRST_FACTOR),
            epochs=settings.steps // settings.epoch_steps,
            output_dir=settings.output_dir,
            world=world,
            device=device,
        )

    def run(self) -> list[dict[str, int | float]]:
        """Train to the last step, and return the scores after each epoch."""
        identity = self.settings.deciding() | {"batch": self.plan.batch, "images": self.train_rows.fingerprint()}
        return self.train(identity | {"weights": self.backbone.weights_hash})

    def losses(self, epoch: int) -> Iterator[Float[Tensor, ""]]:
        """Yield the mean cross-entropy of the labelled pixels of each batch."""
        parts = list(islice(self.plan.parts(self.world.rank, epoch * self.steps), self.steps))
        scenes = TrainScenes(self.train_rows, self.settings.size, self.settings.seed)
        numbers = torch.from_numpy(numbers_of(self.classes, self.rules)).to(self.device)
        read = loaded(scenes, parts, self.workers, self.device)
        batches = progress(read, list(map(len, parts)), label=f"steps {epoch * self.steps} on")
        for step, batch in enumerate(batches, start=epoch * self.steps):
            images, masks = (upload(torch.stack(items), self.device) for items in zip(*batch, strict=True))
            with seeded(self.settings.seed, "segment-fpn", step, self.world.rank):  # dropout, stochastic depth
                logits = self._logits(self.parallel, images)
            targets = numbers[masks[:, 0].long()]  # [n 1 h w] -> [n h w]
            sums = cross_entropy(logits, targets, ignore_index=VOID, reduction="sum")
            yield sums / (targets != VOID).sum().clamp_min(1)

    @torch.no_grad()
    def scores(self) -> dict[str, float]:
        """Return mIoU and pixel accuracy at the images' own size; each process scores a part of the images."""
        self.model.eval()
        own = self.scored_rows.take(range(self.world.rank, len(self.scored_rows), self.world.size))
        scenes, rows = WholeScenes(own, self.settings.size), [[row] for row in range(len(own))]
        read = loaded(scenes, rows, self.workers, self.device)
        classes = len(self.rules.unscored) + len(self.classes)
        matrix = np.zeros((classes, classes), dtype=np.int64)
        numbers = torch.tensor(self.classes)
        for ((image, mask),) in progress(read, [1] * len(own), label="scoring"):
            logits = interpolate(
                self._logits(self.model, upload(image, self.device)[None]), mask.shape, mode="bilinear"
            )
            predicted = numbers[logits[0].argmax(dim=0).cpu()].numpy()
            matrix += confusion(mask.numpy(), predicted, classes, self.rules.ignored)
        total = self.world.summed(torch.as_tensor(matrix, dtype=torch.float64, device=self.device))
        scores = segmentation_scores(total.cpu().numpy().astype(np.int64), self.rules.unscored)
        return {name: scores[name] for name in ("mIoU", "pixel-accuracy")}

    def _logits(self, model: Any, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h w"]:
        """Return logits of the size of the images, which are padded to whole pairs of patches in between."""
        height, width = images.shape[-2:]
        pixels = normalize(images.float() / 255, self.backbone.input.statistics)
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
