"""A run of `fungi udi detect`: the detector's losses on augmented images, and COCO's scores after an epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fungi.backbones.loading import Backbone
from fungi.errors import FungiError
from fungi.pretraining.batch_plan import BatchPlan
from fungi.pretraining.dense.coco import Instances, TrainImages, WholeImages
from fungi.pretraining.dense.detector import coco_scores, mask_rcnn, records
from fungi.pretraining.dense.loading import loaded
from fungi.pretraining.dense.pyramid import decay_groups, synchronised
from fungi.pretraining.dense.schedules import stepped, warmed_up
from fungi.pretraining.dense.settings import DetectSettings
from fungi.pretraining.epochs import EpochTraining
from fungi.pretraining.processes import World, decoding_workers
from fungi.runtime.device import autocast, choose_dtype
from fungi.runtime.log import progress
from fungi.runtime.seeds import seeded
from fungi.runtime.transfers import upload

FIRST_FACTOR = 1e-3
"""Learning rate of the first step of the warm-up, as a share of the peak."""


class Detection(EpochTraining):
    """One process's part in a run."""

    command = "fungi udi detect"

    def __init__(
        self,
        settings: DetectSettings,
        backbone: Backbone,
        train: Instances,
        scored: Instances,
        world: World,
        device: torch.device,
    ) -> None:
        self.settings, self.backbone, self.scored = settings, backbone, scored
        if train.class_ids != scored.class_ids:
            raise FungiError(f"{train.annotation_file} and {scored.annotation_file} have different classes.")
        low, high = settings.crop
        ids = train.image_ids(with_objects=True)
        self.images = TrainImages(train, ids, settings.seed, settings.crop_short_sides, (low, high))
        self.plan = BatchPlan(len(ids), settings.batch_size, processes=world.size, seed=settings.seed)
        self.dtype = choose_dtype(settings.dtype, device)
        self.workers = decoding_workers(settings.num_workers, device)
        model = mask_rcnn(
            backbone,
            len(train.class_ids),
            blocks=settings.blocks,
            short_sides=settings.short_sides,
            longest_side=settings.longest_side,
            channels=settings.channels,
            proposals=settings.proposals,
            drop_path=settings.drop_path,
            seed=settings.seed,
        )
        model = synchronised(model, world, device)
        steps = self.plan.steps_per_epoch
        rates = stepped(settings.lr, settings.epochs, steps, settings.lr_drops)
        super().__init__(
            model,
            torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=0.0),
            warmed_up(rates, settings.warmup_steps, FIRST_FACTOR),
            epochs=settings.epochs,
            output_dir=settings.output_dir,
            world=world,
            device=device,
        )

    def run(self) -> list[dict[str, int | float]]:
        """Train to the last epoch, and return the scores of each."""
        identity = self.settings.deciding() | {"batch": self.plan.batch, "weights": self.backbone.weights_hash}
        train, scored = self.images.instances.fingerprint(), self.scored.fingerprint()
        return self.train(identity | {"train annotations": train, "scored annotations": scored})

    def losses(self, epoch: int) -> Iterator[Float[Tensor, ""]]:
        """Yield the sum of the detector's losses for each batch."""
        parts = list(islice(self.plan.parts(self.world.rank, epoch * self.steps), self.steps))
        read = loaded(self.images, parts, self.workers, self.device)
        batches = progress(read, list(map(len, parts)), label=f"epoch {epoch}")
        for step, batch in enumerate(batches, start=epoch * self.steps):
            images = [upload(image, self.device).float() / 255 for image, _ in batch]
            targets = [{name: upload(item, self.device) for name, item in target.items()} for _, target in batch]
            # Sides, sampled anchors and proposals, and stochastic depth are drawn.
            with seeded(self.settings.seed, "detect", step, self.world.rank), autocast(self.device, self.dtype):
                parts_of_loss: dict[str, Tensor] = self.parallel(images, targets)
            yield torch.stack([value.float() for value in parts_of_loss.values()]).sum()

    def scores(self) -> dict[str, float]:
        """Return COCO's average precisions; each process predicts a part of the images."""
        self.model.eval()
        own = self.scored.image_ids(with_objects=False)[self.world.rank :: self.world.size]
        read = loaded(WholeImages(self.scored, own), [[row] for row in range(len(own))], self.workers, self.device)
        lines: list[dict[str, Any]] = []
        for image_id, (image,) in zip(own, progress(read, [1] * len(own), label="scoring"), strict=True):
            pixels = upload(image, self.device).float() / 255
            with autocast(self.device, self.dtype):
                lines += records(self.model, [pixels], [image_id], self.scored.class_ids)
        gathered = self.world.gathered(lines)
        return coco_scores(self.scored, sorted(gathered, key=lambda line: (line["image_id"], -line["score"])))
