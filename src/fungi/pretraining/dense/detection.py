"""The training of `fungi udi detect`: losses of the detector on augmented images, and COCO's scores of an epoch."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.backbones.loading import Backbone
from fungi.errors import FungiError
from fungi.pretraining.batch_plan import BatchPlan
from fungi.pretraining.dense.coco import CocoImages, ScoredImages, TrainImages
from fungi.pretraining.dense.detector import coco_scores, mask_rcnn, records
from fungi.pretraining.dense.settings import DetectSettings
from fungi.pretraining.dense.training import DenseTraining
from fungi.pretraining.processes import World
from fungi.pretraining.schedules import stepped, warmed_up
from fungi.runtime.device import autocast
from fungi.runtime.seeds import seeded
from fungi.runtime.transfers import upload

FIRST_FACTOR = 1e-3
"""Factor of the learning rate in the first step of the warm-up."""


class Detection(DenseTraining):
    """The training of a detector by one process."""

    command = "fungi udi detect"

    def __init__(self, settings: DetectSettings, backbone: Backbone, world: World, device: torch.device) -> None:
        train = CocoImages(settings.coco, settings.train_split, with_objects=True)
        test = CocoImages(settings.coco, settings.test_split)
        if train.class_ids != test.class_ids:
            raise FungiError(
                f"{train.annotation_file} and {test.annotation_file} have different classes. Use splits of one dataset."
            )
        train.log_unused_images_and_objects()
        self.settings, self.images, self.scored_images = settings, TrainImages(train, settings), ScoredImages(test)
        plan = BatchPlan(len(train), settings.batch_size, processes=world.size, seed=settings.seed)
        rates = stepped(settings.lr, settings.epochs, plan.steps_per_epoch, settings.lr_drops)
        super().__init__(
            settings,
            backbone,
            mask_rcnn(backbone, len(train.class_ids), settings),
            plan,
            warmed_up(rates, settings.warmup_steps, FIRST_FACTOR),
            settings.epochs,
            world,
            device,
            train.identity("train") | test.identity("scored"),
        )

    def losses(self, epoch: int) -> Iterator[Float[Tensor, ""]]:
        """Yield the sum of the detector's losses for each batch."""
        for step, batch in self.batches(self.images, epoch):
            images = [upload(image, self.device).float() / 255 for image, _ in batch]
            targets = [{name: upload(item, self.device) for name, item in target.items()} for _, target in batch]
            # The seed determines the sizes of images, the sampled anchors and proposals, and stochastic depth.
            with seeded(self.settings.seed, "detect", step, self.world.rank), autocast(self.device, self.dtype):
                parts: dict[str, Tensor] = self.parallel(images, targets)
            yield torch.stack([value.float() for value in parts.values()]).sum()

    def scores(self) -> dict[str, float]:
        """Return COCO's average precisions. Each process predicts a part of the images."""
        self.model.eval()
        images, predictions = self.scored_images.images, []
        for image_id, image in self.scored_items(self.scored_images, len(images)):
            pixels = upload(image, self.device).float() / 255
            with autocast(self.device, self.dtype):
                predictions += records(self.model, pixels, image_id, images.class_ids)
        predictions = self.world.gathered(predictions)
        return coco_scores(images, sorted(predictions, key=lambda record: (record["image_id"], -record["score"])))
