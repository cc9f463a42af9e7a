"""Training loop over epochs. Each epoch ends with scores, a log line and a checkpoint. Runs resume from checkpoints."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fungi.backbones.checkpoint_files import read_content
from fungi.errors import FungiError
from fungi.pretraining.processes import World, steps_ahead
from fungi.pretraining.run_files import refuse_other_run, write_log
from fungi.runtime.files import save_with_torch
from fungi.runtime.log import logger
from fungi.runtime.transfers import download


class EpochTraining(ABC):
    """The training loop of one process. A subclass computes the loss of every step and the scores of the model.

    optimizer: each parameter group has `lr_scale`, a factor of its learning rate. rates: learning rate of each step of
    the run. world: the processes that train together. averaged: timm's moving average of the weights, or None.
    """

    command: ClassVar[str]
    """The command that starts the training, for messages."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rates: Float[np.ndarray, " steps"],
        *,
        epochs: int,
        output_dir: Path,
        world: World,
        device: torch.device,
        averaged: Any = None,
    ) -> None:
        self.model, self.optimizer, self.rates, self.averaged = model, optimizer, rates, averaged
        self.epochs, self.output_dir, self.world, self.device = epochs, output_dir, world, device
        self.history: list[dict[str, int | float]] = []
        self.parallel = world.shared(model)

    @property
    def steps(self) -> int:
        """The number of steps of an epoch."""
        return len(self.rates) // self.epochs

    @abstractmethod
    def losses(self, epoch: int) -> Iterator[Float[Tensor, ""]]:
        """Yield the loss of each step of an epoch. The weights are updated after each loss."""

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """Return the scores of the current weights, by name."""

    def train(self, identity: dict[str, Any]) -> list[dict[str, int | float]]:
        """Train to the last epoch. Return the number, mean loss and scores of each epoch.

        identity: settings that determine the numbers of a run. Raises FungiError if the folder contains another run.
        """
        path = self.output_dir / "checkpoint.pth"
        if path.exists():
            self._load(path, identity)
        self.world.require_same_step(len(self.history) * self.steps, self.device, path.parent)
        for epoch in range(len(self.history), self.epochs):
            loss = self.world.summed(torch.tensor(self._learn(epoch), device=self.device)) / self.world.size
            line: dict[str, int | float] = {"epoch": epoch, "loss": float(loss), **self.scores()}
            self.history.append(line)
            if self.world.is_leader:
                self._save(identity)
                logger.info("  ".join(f"{name} {value:.4g}" for name, value in line.items()))
        return self.history

    def _learn(self, epoch: int) -> float:
        """Train for one epoch. Return the mean loss of this process."""
        self.parallel.train()
        losses: list[float] = []
        pending: deque[tuple[int, Callable[[], list[float]]]] = deque()  # losses that are being copied to the host
        for step, loss in enumerate(self.losses(epoch), start=epoch * self.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = float(self.rates[step]) * group["lr_scale"]
            pending.append((step, download(loss.detach()[None])))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            if self.averaged:
                self.averaged.update(self.model)
            losses += _read_losses(pending, steps_ahead(self.device))
        return float(np.mean(losses + _read_losses(pending, 0)))

    def _load(self, path: Path, identity: dict[str, Any]) -> None:
        """Restore the weights, the optimiser and the finished epochs. Raises FungiError for another run."""
        content = read_content(path)
        if not isinstance(content, dict) or "history" not in content:
            raise FungiError(f"{path} is not a checkpoint of `{self.command}`. Use another --output-dir.")
        refuse_other_run(content, identity, path)
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.averaged:
            self.averaged.module.load_state_dict(content["averaged"])
        self.history = content["history"]

    def _save(self, identity: dict[str, Any]) -> None:
        """Write the log and the checkpoint after an epoch."""
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged.module.state_dict() if self.averaged else {},
            "history": self.history,
            "identity": identity,
        }
        write_log(self.output_dir, self.history)  # before the checkpoint, which marks the epoch as finished
        save_with_torch(content, self.output_dir / "checkpoint.pth")


def _read_losses(pending: deque[tuple[int, Callable[[], list[float]]]], limit: int) -> list[float]:
    """Read losses until at most `limit` are pending. Raises FungiError with the step if a loss is not finite.

    pending: an entry for each step whose loss is not read yet: the step, and a function that waits for its loss.
    """
    losses = []
    while len(pending) > limit:
        step, wait_for_loss = pending.popleft()
        (loss,) = wait_for_loss()
        if not np.isfinite(loss):
            raise FungiError(f"step {step}: the loss is {loss}. The last checkpoint is not affected. Try a lower --lr.")
        losses.append(loss)
    return losses
