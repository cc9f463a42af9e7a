"""The training loop of `fungi udi pretrain`: resume, train, save, log (spec udi 5)."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from fungi.data.base import Samples
from fungi.pretraining.batch_plan import BatchPlan
from fungi.pretraining.processes import StopRequest, World, decoding_workers, steps_ahead
from fungi.pretraining.run_files import refuse_other_run, write_log
from fungi.pretraining.udi.batches import ViewedImages, batches
from fungi.pretraining.udi.centres import collapse_warning
from fungi.pretraining.udi.checkpoints import load_checkpoint, save_checkpoint
from fungi.pretraining.udi.configuration import learner_options, step_schedules
from fungi.pretraining.udi.learner import Learner, Measurement, StepSchedule
from fungi.pretraining.udi.settings import PretrainSettings
from fungi.runtime.device import choose_dtype
from fungi.runtime.log import logger
from fungi.runtime.tracking import track
from fungi.settings import as_json

LOG_SECONDS = 20.0
Line = dict[str, int | float]
"""The content of a line of log.txt, for one epoch."""


@dataclass
class Progress:
    """The progress of a run: number of finished steps, a line per finished epoch, and sums over the current epoch."""

    step: int = 0
    history: list[Line] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, numbers: Mapping[str, float], seconds: float) -> None:
        """Count a step, and add its numbers and its duration."""
        self.step += 1
        self.seconds += seconds
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def close_epoch(self, schedule: StepSchedule, plan: BatchPlan) -> Line:
        """Return the line of the current epoch (means over its steps), and start the next epoch."""
        steps = plan.steps_per_epoch
        means = {f"train_{name}": value / steps for name, value in self.sums.items() if name != "stop"}
        line: Line = {
            "epoch": len(self.history),
            **means,
            "train_lr": schedule.rate,
            "train_wd": schedule.weight_decay,
            "teacher_temp": schedule.temperature,
            "images_per_second": round(steps * plan.batch / max(self.seconds, 1e-9), 1),
        }
        self.history.append(line)
        self.sums, self.seconds = {}, 0.0
        return line


class Training:
    """The training loop of one process."""

    def __init__(self, settings: PretrainSettings, samples: Samples, world: World, device: torch.device) -> None:
        self.settings, self.world, self.samples = settings, world, samples
        self.plan = BatchPlan(
            rows=len(samples),
            part_size=settings.batch_size_per_gpu,
            accumulate=settings.accumulate_steps,
            processes=world.size,
            seed=settings.seed,
        )
        self.schedules = step_schedules(settings, self.plan)
        dtype = settings.dtype if settings.use_fp16 or settings.dtype != "auto" else "float32"
        self.options = learner_options(settings)
        self.learner = Learner(self.options, world, device, choose_dtype(dtype, device))
        self.progress = Progress()
        self.steps_ahead = steps_ahead(device)
        self._pending: deque[Measurement] = deque()
        self._saved_at = self._logged_at = self._measured_at = monotonic()

    @property
    def checkpoint(self) -> Path:
        """The path of the newest checkpoint of the run."""
        return self.settings.output_dir / "checkpoint.pth"

    def run(self, stop: StopRequest) -> bool:
        """Train until the end or a signal, and save the state. Return whether the training reached the end.

        A GPU must not wait for the host. Therefore, `steps_ahead` further steps are launched before the numbers of a
        step are read. After a signal, all processes stop at the same step: `steps_ahead` steps after the step in which
        the signal was read.
        """
        self._resume()
        step_batches = batches(
            ViewedImages(self.samples, self.options.views, self.settings.seed),
            self.plan,
            rank=self.world.rank,
            first_step=self.progress.step,
            workers=decoding_workers(self.settings.num_workers, self.learner.device),
            pin_memory=self.learner.device.type == "cuda",
        )
        step, last_step = self.progress.step, len(self.schedules)
        self._measured_at = monotonic()
        while step < last_step:
            self._pending.append(self.learner.launch(next(step_batches), self.schedules[step], stop=bool(stop)))
            step += 1
            save_due = monotonic() - self._saved_at > 60 * self.settings.save_minutes
            epoch_ends = step % self.plan.steps_per_epoch == 0
            last_step = min(last_step, self._read_pending(0 if save_due or epoch_ends else self.steps_ahead))
            if epoch_ends:
                self._end_epoch(self.schedules[step - 1])
            elif save_due:
                self._save()
        self._read_pending(0)
        if step < len(self.schedules):
            self._save()
        return step == len(self.schedules)

    def _read_pending(self, limit: int) -> int:
        """Read measurements until at most `limit` are pending. Return the number of steps after which the run ends."""
        last_step = len(self.schedules)
        while len(self._pending) > limit:
            measurement = self._pending.popleft()
            numbers = measurement.read()
            now = monotonic()
            self.progress.add(numbers, now - self._measured_at)
            self._measured_at = now
            self._log_step(numbers, measurement.schedule)
            if numbers["stop"]:
                last_step = min(last_step, self.progress.step + self.steps_ahead)
        return last_step

    def _resume(self) -> None:
        """Load the checkpoint if it exists. Raises FungiError if only some processes can see the checkpoint."""
        if self.checkpoint.exists():
            self._load()
        self.world.require_same_step(self.progress.step, self.learner.device, self.settings.output_dir)

    def _load(self) -> None:
        """Restore the learner and the progress from the checkpoint. Raises FungiError for another run."""
        run = load_checkpoint(self.checkpoint, self.learner)
        refuse_other_run(run, self._identity(), self.checkpoint)
        self.progress = Progress(run["step"], run["history"], run["sums"], run["seconds"])
        if self.world.is_leader:
            logger.info(f"the run resumes from {self.checkpoint}: step {self.progress.step} of {len(self.schedules)}")

    def _identity(self) -> dict[str, Any]:
        """Return everything that determines the numbers of a run.

        The split of a batch is included only if each part of a batch has its own means.
        """
        identity = self.settings.identity() | {"batch": self.plan.batch, "images": self.samples.fingerprint()}
        if self.options.network.batch_norm or self.options.views.deviations.process_means:
            identity |= {"processes": self.world.size, "accumulate_steps": self.settings.accumulate_steps}
        return identity

    def _end_epoch(self, schedule: StepSchedule) -> None:
        """Add the line of the epoch, warn of a collapse, and save. schedule: schedule of the last step of the epoch."""
        line = self.progress.close_epoch(schedule, self.plan)
        track(line)
        warning = collapse_warning(line["train_entropy"], line["train_diversity"], self.settings.out_dim)
        # In the first epochs, every teacher gives all images the same prediction.
        is_early = line["epoch"] + 1 < max(2, self.settings.epochs // 10)
        if self.world.is_leader and warning and not is_early:
            logger.warning("epoch %d: %s", line["epoch"], warning)
        interval = self.settings.saveckp_freq
        if interval and line["epoch"] % interval == 0:
            self._write(self.settings.output_dir / f"checkpoint{line['epoch']:04d}.pth")
        self._save()

    def _save(self) -> None:
        """Write the log, then the checkpoint. The log of a killed run then has all epochs of its checkpoint."""
        if self.world.is_leader:
            write_log(self.settings.output_dir, self.progress.history)
        self._write(self.checkpoint)
        self._saved_at = self._measured_at = monotonic()

    def _write(self, path: Path) -> None:
        """Write a checkpoint. Only the process with rank 0 writes."""
        if not self.world.is_leader:
            return
        progress = self.progress
        run = {"step": progress.step, "history": progress.history, "sums": progress.sums, "seconds": progress.seconds}
        save_checkpoint(
            path,
            self.learner,
            epoch=progress.step // self.plan.steps_per_epoch,
            arguments=as_json(self.settings),
            run=run | {"identity": self._identity()},
        )

    def _log_step(self, numbers: dict[str, float], schedule: StepSchedule) -> None:
        """Log a line at regular intervals: progress, speed, and the parts of the loss."""
        track({name: value for name, value in numbers.items() if name != "stop"} | {"lr": schedule.rate})
        if not self.world.is_leader or monotonic() - self._logged_at < LOG_SECONDS:
            return
        self._logged_at = monotonic()
        epoch, step = divmod(self.progress.step, self.plan.steps_per_epoch)
        images = max(1, step) * self.plan.batch
        speed = images / max(self.progress.seconds, 1e-9)
        parts = "  ".join(f"{name} {numbers[name]:.3f}" for name in ("loss", *self.learner.active, "entropy"))
        logger.info(
            f"epoch {epoch}/{self.settings.epochs} step {step}/{self.plan.steps_per_epoch}  {parts}  "
            f"lr {schedule.rate:.2e}  {speed:.0f} images/s"
        )
