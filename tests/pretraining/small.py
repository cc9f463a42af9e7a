"""Settings, learners and batches of a run that takes seconds: a small network and few images."""

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
    """Return the small settings with changes."""
    return PretrainSettings(**(FLAGS | changed))


def learner_of(run_settings: PretrainSettings) -> Learner:
    return Learner(learner_options(run_settings), World(), torch.device("cpu"), torch.float32)


def first_batches(run_settings: PretrainSettings, steps: int) -> list[list[Views]]:
    """Return the batches of the first steps. A batch is a list of parts, whose gradients are added."""
    samples = open_images(run_settings.data_path, run_settings.dataset, run_settings.data_dir)
    plan = BatchPlan(
        len(samples), run_settings.batch_size_per_gpu, run_settings.accumulate_steps, seed=run_settings.seed
    )
    images = ViewedImages(samples, learner_options(run_settings).views, run_settings.seed)
    iterator = batches(images, plan, rank=0, first_step=0, workers=0)
    return [next(iterator) for _ in range(steps)]


def schedule(step: int = 0, **changed: Any) -> StepSchedule:
    """Return the step schedule of a step with changes."""
    defaults = {"rate": 1e-3, "weight_decay": 0.04, "teacher_momentum": 0.9, "temperature": 0.04}
    return StepSchedule(step=step, **(defaults | changed))


def image_folder(folder: Path, count: int, size: tuple[int, int] = (20, 24)) -> Path:
    """Write `count` images of noise into `folder/class`, and return `folder`. size: (height, width) in pixels."""
    import numpy as np
    from PIL import Image

    (folder / "class").mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "class" / f"{number:03d}.png")
    return folder


def command_flags(**changed: Any) -> list[str]:
    """Return the small settings as flags of `fungi udi pretrain`, in the spelling of the published code."""
    flags: list[str] = []
    for name, value in (FLAGS | changed).items():
        values: Sequence[Any] = value if isinstance(value, tuple) else (value,)
        flags += [f"--{name}", *(str(item).lower() if isinstance(item, bool) else str(item) for item in values)]
    return flags
