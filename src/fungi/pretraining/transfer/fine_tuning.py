"""A run of `fungi udi fine-tune`: epochs of training and scoring, resumed from the last one."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fungi.backbones.checkpoint_files import read_content
from fungi.backbones.loading import Backbone
from fungi.data.base import Samples
from fungi.errors import FungiError
from fungi.pretraining.batch_plan import BatchPlan
from fungi.pretraining.processes import World, decoding_workers, steps_ahead
from fungi.pretraining.run_files import refuse_other_run, write_log
from fungi.pretraining.schedules import cosine
from fungi.pretraining.transfer.augmented_view import AugmentedViews
from fungi.pretraining.transfer.classifier import layer_groups
from fungi.pretraining.transfer.features import evaluation_images
from fungi.pretraining.transfer.fine_tune_settings import FineTuneSettings
from fungi.runtime.device import autocast, choose_dtype
from fungi.runtime.files import save_with_torch
from fungi.runtime.log import logger, progress
from fungi.runtime.seeds import seeded
from fungi.runtime.transfers import download, upload
from fungi.views.loading import batches

SCORED_AT_ONCE = 64


class FineTuning:
    """One process's part in a run; `backbone.model` is the classifier."""

    def __init__(
        self, settings: FineTuneSettings, backbone: Backbone, train: Samples, world: World, device: torch.device
    ) -> None:
        from timm.utils import ModelEmaV3

        self.train = train
        self.settings, self.backbone, self.world, self.device = settings, backbone, world, device
        self.model: Any = backbone.model.to(device)
        self.recipe = recipe = settings.chosen
        self.averaged = ModelEmaV3(self.model, decay=recipe.averaging) if recipe.averaging else None
        groups = layer_groups(self.model, layer_decay=recipe.layer_decay, weight_decay=settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0)
        images = recipe.batch_size // recipe.repeats
        self.plan = BatchPlan(len(train), images, processes=world.size, seed=settings.seed)
        # An epoch has as many views as there are images, also where each image gives several.
        self.steps = max(1, self.plan.steps_per_epoch // recipe.repeats)
        self.dtype = choose_dtype(settings.dtype, device)
        self.workers = decoding_workers(settings.num_workers, device)
        self.history: list[dict[str, float]] = []
        self.parallel = world.shared(self.model)

    def run(self, scored: Samples) -> dict[str, float]:
        """Train to the end, and return `accuracy`, the best of all epochs, and `last-accuracy`, after the last epoch.

        Averaged weights have both, too, with `averaged-` before their names.
        """
        settings, recipe, steps = self.settings, self.recipe, self.steps
        batch = self.plan.batch * recipe.repeats
        peak = recipe.lr * (batch / recipe.lr_images if recipe.lr_images else 1)
        last = min(recipe.min_lr, peak)
        rates = cosine(peak, last, recipe.epochs * steps, warmup=recipe.warmup_epochs * steps)
        identity = settings.deciding() | {"batch": batch, "images": self.train.fingerprint()}
        identity |= {"weights": self.backbone.weights_hash}
        self._resume(identity)
        for epoch in range(len(self.history), recipe.epochs):
            loss = self._learn(epoch, rates)
            line = {"epoch": epoch, "loss": loss, "accuracy": self._accuracy(self.model, scored)}
            if self.averaged:
                line["averaged-accuracy"] = self._accuracy(self.averaged.module, scored)
            self.history.append(line)
            if self.world.leads:
                self._save(identity)
                logger.info("  ".join(f"{name} {value:.4g}" for name, value in line.items()))
        best: dict[str, float] = {}
        for name in ("accuracy", "averaged-accuracy")[: 1 + bool(self.averaged)]:
            values = [line[name] for line in self.history]
            best |= {name: max(values), name.replace("accuracy", "last-accuracy"): values[-1]}
        return best

    def _learn(self, epoch: int, rates: Float[np.ndarray, " steps"]) -> float:
        """Pass over the images once, and return the mean loss of this process."""
        self.parallel.train()
        losses: list[float] = []
        pending: deque[tuple[int, Callable[[], list[float]]]] = deque()
        for step, (images, targets) in enumerate(self._batches(epoch), start=epoch * self.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = float(rates[step]) * group["lr_scale"]
            with seeded(self.settings.seed, "fine-tune", step, self.world.rank):  # mixtures and stochastic depth
                loss = self._loss(upload(images, self.device), upload(targets, self.device))
            pending.append((step, download(loss.detach()[None])))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            if self.averaged:
                self.averaged.update(self.model)
            losses += _read(pending, steps_ahead(self.device))
        return float(np.mean(losses + _read(pending, 0)))

    def _batches(self, epoch: int) -> Iterator[tuple[Float[Tensor, "n 3 s s"], Int64[Tensor, " n"]]]:
        """Yield the augmented images of this process in one epoch, and their labels."""
        repeats = self.recipe.repeats
        views = AugmentedViews(input=self.backbone.input, erasing=self.recipe.erasing, repeats=repeats)
        parts = islice(self.plan.parts(self.world.rank, epoch * self.steps), self.steps)
        rows = [[row for _, row in part] for part in parts]
        loaded = batches(
            self.train,
            [views],
            rows,
            seed=self.settings.seed,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            epoch=epoch,
        )
        bar = progress(loaded, list(map(len, rows)), label=f"epoch {epoch}")
        for chosen, batch in zip(rows, bar, strict=True):
            targets = torch.from_numpy(self.train.targets[chosen].astype(np.int64))
            yield batch[views.identity], targets.repeat_interleave(repeats)

    def _loss(self, images: Float[Tensor, "n 3 s s"], targets: Int64[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return the cross-entropy of mixed images with soft labels, or of plain images with smoothed labels."""
        from timm.data import Mixup

        settings = self.settings
        smoothing, labels = settings.smoothing, targets
        if settings.mixup or settings.cutmix:
            mix = Mixup(settings.mixup, settings.cutmix, label_smoothing=smoothing, num_classes=self.model.num_classes)
            images, labels = mix(images, targets)
            smoothing = 0.0
        with autocast(self.device, self.dtype):
            logits = self.parallel(images)
        return nn.functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)

    @torch.no_grad()
    def _accuracy(self, model: nn.Module, scored: Samples) -> float:
        """Return the share of right answers; each process scores a part of the rows."""
        model.eval()
        own = scored.take(range(self.world.rank, len(scored), self.world.size))
        right, start = torch.zeros((), device=self.device, dtype=torch.float64), 0
        for images in evaluation_images(self.backbone, own, SCORED_AT_ONCE, self.device, self.workers):
            with autocast(self.device, self.dtype):
                answers = model(images).argmax(1)
            targets = torch.from_numpy(own.targets[start : start + len(answers)].astype(np.int64))
            right += (answers == upload(targets, self.device)).sum()
            start += len(answers)
        return float(self.world.summed(right)) / len(scored)

    def _resume(self, identity: dict[str, Any]) -> None:
        path = self.settings.output_dir / "checkpoint.pth"
        if path.exists():
            self._load(path, identity)
        self.world.agree(len(self.history) * self.steps, self.device, path.parent)

    def _load(self, path: Path, identity: dict[str, Any]) -> None:
        content = read_content(path)
        if not isinstance(content, dict) or "history" not in content:
            raise FungiError(f"{path} is no checkpoint of `fungi udi fine-tune`. Use another --output-dir.")
        refuse_other_run(content, identity, path)
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.averaged:
            self.averaged.module.load_state_dict(content["averaged"])
        self.history = content["history"]

    def _save(self, identity: dict[str, Any]) -> None:
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged.module.state_dict() if self.averaged else {},
            "history": self.history,
            "identity": identity,
        }
        write_log(self.settings.output_dir, self.history)  # before the state that says it is there
        save_with_torch(content, self.settings.output_dir / "checkpoint.pth")


def _read(pending: deque[tuple[int, Callable[[], list[float]]]], most: int) -> list[float]:
    """Return losses until at most so many are pending; FungiError, with its step, for one that is no number."""
    losses = []
    while len(pending) > most:
        step, numbers = pending.popleft()
        (loss,) = numbers()
        if not np.isfinite(loss):
            raise FungiError(f"step {step}: the loss is {loss}. The last checkpoint is good. Try a lower --lr.")
        losses.append(loss)
    return losses
