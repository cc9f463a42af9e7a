"""Training loop of `fungi udi fine-tune`: the loss of mixed images, and the accuracy after an epoch."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fungi.backbones.loading import Backbone
from fungi.data.base import Samples
from fungi.pretraining.batch_plan import BatchPlan
from fungi.pretraining.epochs import EpochTraining
from fungi.pretraining.processes import World, decoding_workers
from fungi.pretraining.schedules import cosine
from fungi.pretraining.transfer.augmented_view import AugmentedViews
from fungi.pretraining.transfer.classifier import layer_groups
from fungi.pretraining.transfer.features import evaluation_images
from fungi.pretraining.transfer.fine_tune_settings import FineTuneSettings
from fungi.runtime.device import autocast, choose_dtype
from fungi.runtime.log import progress
from fungi.runtime.seeds import seeded
from fungi.runtime.transfers import upload
from fungi.views.loading import batches

SCORING_BATCH = 64


class FineTuning(EpochTraining):
    """The training loop of one process. `backbone.model` is the network with its classifier."""

    command = "fungi udi fine-tune"

    def __init__(
        self,
        settings: FineTuneSettings,
        backbone: Backbone,
        train: Samples,
        test: Samples,
        world: World,
        device: torch.device,
    ) -> None:
        from timm.utils import ModelEmaV3

        self.settings, self.backbone, self.train_rows, self.test_rows = settings, backbone, train, test
        self.recipe = recipe = settings.recipe_with_flags
        model: Any = backbone.model.to(device)
        images = recipe.batch_size // recipe.repeats
        self.plan = BatchPlan(len(train), images, processes=world.size, seed=settings.seed)
        # The number of views per epoch equals the number of images, even with several views per image.
        steps = max(1, self.plan.steps_per_epoch // recipe.repeats)
        self.batch = self.plan.batch * recipe.repeats
        peak = recipe.lr * (self.batch / recipe.lr_images if recipe.lr_images else 1)
        last, warmup = min(recipe.min_lr, peak), recipe.warmup_epochs * steps
        groups = layer_groups(model, layer_decay=recipe.layer_decay, weight_decay=settings.weight_decay)
        self.dtype = choose_dtype(settings.dtype, device)
        self.workers = decoding_workers(settings.num_workers, device)
        super().__init__(
            model,
            torch.optim.AdamW(groups, lr=0.0),
            cosine(peak, last, recipe.epochs * steps, warmup=warmup),
            epochs=recipe.epochs,
            output_dir=settings.output_dir,
            world=world,
            device=device,
            averaged=ModelEmaV3(model, decay=recipe.averaging) if recipe.averaging else None,
        )

    def run(self) -> dict[str, float]:
        """Train to the end. Return `accuracy` (of the best epoch) and `last-accuracy` (of the last epoch).

        With averaged weights, also return `averaged-accuracy` and `averaged-last-accuracy`.
        """
        identity = self.settings.identity() | {"batch": self.batch, "images": self.train_rows.fingerprint()}
        identity |= {"weights": self.backbone.weights_hash}
        history = self.train(identity)
        scores: dict[str, float] = {}
        for name in ("accuracy", "averaged-accuracy") if self.averaged else ("accuracy",):
            values = [line[name] for line in history]
            scores |= {name: max(values), name.replace("accuracy", "last-accuracy"): values[-1]}
        return scores

    def losses(self, epoch: int) -> Iterator[Float[Tensor, ""]]:
        """Yield the cross-entropy of each batch of augmented and mixed images."""
        for step, (images, targets) in enumerate(self._batches(epoch), start=epoch * self.steps):
            # The seed determines mixup, cutmix and stochastic depth.
            with seeded(self.settings.seed, "fine-tune", step, self.world.rank):
                loss = self._loss(upload(images, self.device), upload(targets, self.device))
            yield loss

    def scores(self) -> dict[str, float]:
        """Return the accuracy of the weights and of the averaged weights."""
        scores = {"accuracy": self._accuracy(self.model)}
        if self.averaged:
            scores["averaged-accuracy"] = self._accuracy(self.averaged.module)
        return scores

    def _batches(self, epoch: int) -> Iterator[tuple[Float[Tensor, "n 3 s s"], Int64[Tensor, " n"]]]:
        """Yield the augmented images of this process in one epoch, and their labels."""
        repeats = self.recipe.repeats
        views = AugmentedViews(input=self.backbone.input, erasing=self.recipe.erasing, repeats=repeats)
        parts = islice(self.plan.parts(self.world.rank, epoch * self.steps), self.steps)
        rows = [[row for _, row in part] for part in parts]
        view_batches = batches(
            self.train_rows,
            [views],
            rows,
            seed=self.settings.seed,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            epoch=epoch,
        )
        batches_with_progress = progress(view_batches, list(map(len, rows)), label=f"epoch {epoch}")
        for batch_rows, batch in zip(rows, batches_with_progress, strict=True):
            targets = torch.from_numpy(self.train_rows.targets[batch_rows].astype(np.int64))
            yield batch[views.identity], targets.repeat_interleave(repeats)

    def _loss(self, images: Float[Tensor, "n 3 s s"], targets: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return the cross-entropy of mixed images with soft labels or, without mixing, with smoothed labels."""
        from timm.data import Mixup

        settings = self.settings
        smoothing, labels = settings.smoothing, targets
        if settings.mixup or settings.cutmix:
            classes = self.backbone.model.num_classes
            mix = Mixup(settings.mixup, settings.cutmix, label_smoothing=smoothing, num_classes=classes)
            images, labels = mix(images, targets)
            smoothing = 0.0
        with autocast(self.device, self.dtype):
            logits = self.parallel(images)
        return nn.functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    @torch.no_grad()
    def _accuracy(self, model: nn.Module) -> float:
        """Return the share of correct predictions. Each process scores a part of the rows."""
        model.eval()
        rows = self.test_rows
        part = rows.take(range(self.world.rank, len(rows), self.world.size))
        correct, start = torch.zeros((), device=self.device, dtype=torch.float64), 0
        for images in evaluation_images(self.backbone, part, SCORING_BATCH, self.device, self.workers):
            with autocast(self.device, self.dtype):
                predictions = model(images).argmax(1)
            targets = torch.from_numpy(part.targets[start : start + len(predictions)].astype(np.int64))
            correct += (predictions == upload(targets, self.device)).sum()
            start += len(predictions)
        return float(self.world.summed(correct)) / len(rows)
