"""A run that takes seconds: a small network, few images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fungi.pretraining.batch_plan import BatchPlan
from fungi.pretraining.processes import World
from fungi.pretraining.udi.batches import ViewedImages, batches
from fungi.pretraining.udi.configuration import learner_options
from fungi.pretraining.udi.images import open_images
from fungi.pretraining.udi.learner import Learner, StepSchedule
from fungi.pretraining.udi.settings import PretrainSettings
from fungi.pretraining.udi.views import Views


class Killed(BaseException):
    """Simulates the kill of a process."""


FLAGS: dict[str, Any] = {
    "dataset": "digits",
    "arch": "vit_micro",
    "patch_size": 8,
    "global_crops_size": 32,
    "local_crops_size": 16,
    "out_dim": 32,
    "head_hidden_dim": 24,
    "head_bottleneck_dim": 12,
    "global_sampling_window_size": 2,
    "local_sampling_window_size": 1,
    "local_crops_number": 2,
    "batch_size_per_gpu": 8,
    "epochs": 2,
    "warmup_epochs": 1,
    "init": "xavier",
    "num_workers": 0,
    "device": "cpu",
}


def settings(**changed: Any) -> PretrainSettings:
    return PretrainSettings(**(FLAGS | changed))


def learner_of(made: PretrainSettings) -> Learner:
    return Learner(learner_options(made), World(), torch.device("cpu"), torch.float32)


def first_batches(made: PretrainSettings, steps: int) -> list[list[Views]]:
    samples = open_images(made.data_path, made.dataset, made.data_dir)
    plan = BatchPlan(len(samples), made.batch_size_per_gpu, made.accumulate_steps, 1, made.seed)
    images = ViewedImages(samples, learner_options(made).views, made.seed)
    found = batches(images, plan, rank=0, first_step=0, workers=0)
    return [next(found) for _ in range(steps)]


def schedule(step: int = 0, **changed: Any) -> StepSchedule:
    usual = {"rate": 1e-3, "weight_decay": 0.04, "teacher_momentum": 0.9, "temperature": 0.04}
    return StepSchedule(step=step, **(usual | changed))


def image_folder(folder: Path, count: int, size: tuple[int, int] = (20, 24)) -> Path:
    import numpy as np
    from PIL import Image

    (folder / "class").mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "class" / f"{number:03d}.png")
    return folder


def words(**changed: Any) -> list[str]:
    """Return the flags of a command in the spelling of the reference."""
    found: list[str] = []
    for name, value in (FLAGS | changed).items():
        several: Sequence[Any] = value if isinstance(value, tuple) else (value,)
        found += [f"--{name}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in several)]
    return found
