"""The training of `fungi udi segment-fpn`: cross-entropy of the pixels of random crops, and mIoU of full images."""

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
from fungi.pretraining.dense.scenes import FullScenes, TrainScenes
from fungi.pretraining.dense.semantic_head import SemanticFpn
from fungi.pretraining.dense.settings import SegmentFpnSettings
from fungi.pretraining.dense.training import DenseTraining
from fungi.pretraining.processes import World
from fungi.pretraining.schedules import warmed_up
from fungi.runtime.device import autocast
from fungi.runtime.seeds import seeded
from fungi.runtime.transfers import upload
from fungi.views.pixels import normalize

FIRST_FACTOR = 1e-6
"""Factor of the learning rate in the first step of the warm-up."""


class Segmentation(DenseTraining):
    """The training of a segmentation network by one process."""

    command = "fungi udi segment-fpn"

    def __init__(self, settings: SegmentFpnSettings, backbone: Backbone, world: World, device: torch.device) -> None:
        dataset = resolve_dataset(settings.dataset, settings.data_dir)
        if dataset.masks is None or dataset.classes is None:
            raise FungiError(f"dataset {dataset.name!r} has no masks. Use ade20k, pascal-voc or digit-scenes.")
        self.rules, self.classes = dataset.masks, trained_classes(dataset.classes, dataset.masks)
        train, test = (dataset.open_split(split, settings.data_dir) for split in ("train", "test"))
        self.train_scenes = TrainScenes(train, settings.size, settings.seed)
        self.test_scenes = FullScenes(test, settings.size)
        self.settings, self.statistics = settings, backbone.input.statistics
        network = SemanticFpn(backbone, len(self.classes), settings)
        self.multiple = 2 * network.pyramid.patch_size
        rates = settings.lr * (1 - np.arange(settings.steps) / settings.steps)
        super().__init__(
            settings,
            backbone,
            network,
            BatchPlan(len(train), settings.batch_size, processes=world.size, seed=settings.seed),
            warmed_up(rates, settings.warmup_steps, FIRST_FACTOR),
            settings.steps // settings.epoch_steps,
            world,
            device,
            {"images": train.fingerprint(), "scored images": test.fingerprint()},
        )

    def losses(self, epoch: int) -> Iterator[Float[Tensor, ""]]:
        """Yield the cross-entropy of each batch: the mean over the labelled pixels of all processes."""
        outputs = torch.from_numpy(outputs_of_values(self.classes, self.rules)).to(self.device)
        for step, batch in self.batches(self.train_scenes, epoch):
            images, masks = (upload(torch.stack(items), self.device) for items in zip(*batch, strict=True))
            # The seed determines dropout and stochastic depth.
            with seeded(self.settings.seed, "segment-fpn", step, self.world.rank):
                logits = self._logits(self.parallel, images)
            targets = outputs[masks[:, 0].long()]  # [n 1 h w] -> [n h w]
            labelled = self.world.summed((targets != VOID).sum().float()) / self.world.size
            yield cross_entropy(logits, targets, ignore_index=VOID, reduction="sum") / labelled.clamp_min(1)

    @torch.no_grad()
    def scores(self) -> dict[str, float]:
        """Return mIoU and pixel accuracy at the original size of images. Each process scores a part of the images."""
        self.model.eval()
        classes = len(self.rules.unscored) + len(self.classes)
        matrix = np.zeros((classes, classes), dtype=np.int64)
        class_of_output = torch.tensor(self.classes)
        for image, mask in self.scored_items(self.test_scenes, len(self.test_scenes.samples)):
            logits = self._logits(self.model, upload(image, self.device)[None])
            output = interpolate(logits, mask.shape, mode="bilinear")[0].argmax(dim=0)
            matrix += confusion(mask.numpy(), class_of_output[output.cpu()].numpy(), classes, self.rules.ignored)
        total = self.world.summed(torch.as_tensor(matrix, dtype=torch.float64, device=self.device))
        scores = segmentation_scores(total.cpu().numpy().astype(np.int64), self.rules.unscored)
        return {name: scores[name] for name in ("mIoU", "pixel-accuracy")}

    def _logits(self, model: Any, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h w"]:
        """Return logits of the size of the images. For the network, images are padded to multiples of two patches."""
        height, width = images.shape[-2:]
        pixels = normalize(images.float() / 255, self.statistics)
        padded = pad(pixels, (0, -width % self.multiple, 0, -height % self.multiple))
        with autocast(self.device, self.dtype):
            logits = model(padded).float()
        return interpolate(logits, padded.shape[-2:], mode="bilinear")[..., :height, :width]


def trained_classes(classes: int, rules: MaskRules) -> list[int]:
    """Return the classes that the head predicts: the scored classes."""
    return [number for number in range(classes) if number not in rules.unscored]


def outputs_of_values(classes: list[int], rules: MaskRules) -> Int64[np.ndarray, "256"]:
    """Return the index of the head's output for each value of a mask; VOID for values that are not trained."""
    outputs = np.full(VOID + 1, VOID, dtype=np.int64)
    outputs[classes] = np.arange(len(classes))
    outputs[rules.ignored] = VOID
    return outputs
