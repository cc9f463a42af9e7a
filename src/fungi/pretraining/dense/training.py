"""Training that detection and segmentation share: the network with its dense head, its images, and `result.json`."""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from fungi.backbones.loading import Backbone
from fungi.pretraining.batch_plan import BatchPlan
from fungi.pretraining.dense.batch_norm import synchronised
from fungi.pretraining.dense.pyramid import decay_groups
from fungi.pretraining.dense.settings import DenseSettings
from fungi.pretraining.epochs import EpochTraining
from fungi.pretraining.processes import World, decoding_workers, process_group
from fungi.runtime.device import choose_dtype
from fungi.runtime.files import write_text_atomically
from fungi.runtime.log import logger, progress
from fungi.settings import as_json
from fungi.views.workers import worker_batches


class DenseTraining(EpochTraining):
    """The training of a backbone and a dense head by one process.

    rates: learning rate of each step. identity: facts that determine the numbers of a run, in addition to settings and
    weights.
    """

    def __init__(
        self,
        settings: DenseSettings,
        backbone: Backbone,
        network: nn.Module,
        plan: BatchPlan,
        rates: Float[np.ndarray, " steps"],
        epochs: int,
        world: World,
        device: torch.device,
        identity: dict[str, Any],
    ) -> None:
        model = synchronised(network, world, device)
        super().__init__(
            model,
            torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=0.0),
            rates,
            epochs=epochs,
            output_dir=settings.output_dir,
            world=world,
            device=device,
        )
        self.plan, self.dtype = plan, choose_dtype(settings.dtype, device)
        self.workers = decoding_workers(settings.num_workers, device)
        self.identity = settings.identity() | {"batch": plan.batch, "weights": backbone.weights_hash} | identity

    def batches(self, images: Any, epoch: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield the index of each step of an epoch, and the items of its batch for this process."""
        parts = list(islice(self.plan.parts(self.world.rank, epoch * self.steps), self.steps))
        yield from enumerate(self._read(images, parts, f"epoch {epoch}"), start=epoch * self.steps)

    def scored_items(self, images: Any, count: int) -> Iterator[Any]:
        """Yield the items that this process scores: a part of the `count` items of `images`."""
        rows = range(self.world.rank, count, self.world.size)
        for (item,) in self._read(images, [[row] for row in rows], "scoring"):
            yield item

    def _read(self, images: Any, rows: list[list[Any]], label: str) -> Iterator[list[Any]]:
        """Yield lists of items, because the sizes of the items differ."""
        pin_memory = self.device.type == "cuda"
        batches = worker_batches(images, rows, list, num_workers=self.workers, pin_memory=pin_memory)
        return iter(progress(batches, list(map(len, rows)), label=label))


def train(
    settings: DenseSettings, start: Callable[[Any, Backbone, World, torch.device], DenseTraining]
) -> dict[str, Any]:
    """Train and score; return settings, provenance and the scores after the last epoch.

    start: function that returns the training of a task. The process with rank 0 writes the result to `result.json`.
    """
    backbone = settings.load_network()
    with process_group(settings.device) as (world, device):
        if not world.is_leader:
            logger.setLevel("ERROR")
        training = start(settings, backbone, world, device)
        history = training.train(training.identity)
    content = {
        "settings": as_json(settings),
        "provenance": {"weights": backbone.weights_source, "weights_hash": backbone.weights_hash},
        "results": {name: value for name, value in history[-1].items() if name not in ("epoch", "loss")},
    }
    if world.is_leader:
        path = settings.output_dir / "result.json"
        write_text_atomically(path, json.dumps(content, indent=1))
        logger.info(f"wrote {path}")
    return content
