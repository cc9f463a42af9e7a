"""Measure a step of pretraining: `python scripts/benchmark.py pretraining --batch-size 4`.

The step is compared with two other kinds of steps:

- bare: the same views through the same vision transformer (student forward and backward, teacher forward of the global
  crops).
- reference: the same matrix products in the order of the published code. The teacher runs twice, all logits of local
  patches are computed, and each pair of views has its own logarithm of a softmax.

The kinds take turns in each round. The benchmark prints the median and the range of the ratios over the rounds, the
median time of each kind (processor time on a CPU), and the peak memory of a process that runs only this kind.
"""

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks._rounds import in_turns, ratio
from fungi.pretraining.processes import World
from fungi.pretraining.tokens import embed, run_blocks
from fungi.pretraining.udi.choices import choose_architecture
from fungi.pretraining.udi.learner import Learner, LearnerOptions, StepSchedule
from fungi.pretraining.udi.network import NetworkOptions, Predictions, align
from fungi.pretraining.udi.optimisation import update_teacher
from fungi.pretraining.udi.sampling import masked_mean
from fungi.pretraining.udi.views import ViewOptions, Views, collate, make_views
from fungi.runtime.device import choose_device, keep_freed_memory
from fungi.runtime.transfers import upload
from fungi.views.image import IMAGENET
from fungi.views.pixels import normalize

KINDS = ("step", "bare", "reference")
"""`step` is our step. The text above explains the other two."""
SCHEDULE = StepSchedule(step=0, rate=1e-4, weight_decay=0.04, teacher_momentum=0.996, temperature=0.04)


def main(arguments: list[str] | None = None) -> int:
    """Measure the steps and print the results."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    device = choose_device(options.device)
    learner, views = _prepare(options, device)
    kinds = options.kinds
    work = {kind: (lambda kind=kind: WORK[kind](learner, views)) for kind in KINDS}
    if options.only:
        work[options.only]()
        status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage would include the parent process
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
        print(f"peak {int(peak) / 1024:.0f} MiB")
        return 0
    seconds = in_turns({kind: work[kind] for kind in kinds}, options.rounds, device)
    for kind, base in (("step", "bare"), ("reference", "step"), ("reference", "bare")):
        if kind in kinds and base in kinds:
            print(f"{kind} / {base}: {ratio(seconds[kind], seconds[base])}", flush=True)
    for kind in kinds:
        print(f"{kind:10} {statistics.median(seconds[kind]):7.2f} s  {_peak(options, kind)}", flush=True)
    return 0


def _prepare(options: argparse.Namespace, device: torch.device) -> tuple[Learner, Views]:
    """Return a learner with random weights, and a batch of views of random images."""
    network = NetworkOptions(architecture=choose_architecture(options.arch), prototypes=options.out_dim)
    view_options = ViewOptions(local_crops=options.local_crops)
    learner = Learner(LearnerOptions(network=network, views=view_options), World(), device, torch.float32)
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (256, 256, 3), dtype=np.uint8)) for _ in range(options.batch_size)
    ]
    return learner, collate([make_views(image, view_options, random) for image in images])


def _step(learner: Learner, views: Views) -> None:
    learner.step([views], SCHEDULE)


def _pixels(learner: Learner, views: Views) -> tuple[Tensor, Tensor]:
    """Return the normalised global and local crops, `[v*b 3 s s]`, on the device."""
    crops = (upload(pixels.flatten(0, 1), learner.device) for pixels in (views.globals, views.locals))
    global_crops, local_crops = (normalize(pixels, IMAGENET) for pixels in crops)
    return global_crops, local_crops


def _bare(learner: Learner, views: Views) -> None:
    """Run only the transformers: the teacher forward, the student forward and backward."""
    global_crops, local_crops = _pixels(learner, views)
    student, teacher = (network.backbone.backbone for network in (learner.student, learner.teacher))
    with torch.no_grad():
        run_blocks(teacher, embed(teacher, global_crops))
    learner.optimizer.zero_grad(set_to_none=True)
    outputs = [run_blocks(student, embed(student, crops)) for crops in (global_crops, local_crops)]
    (outputs[0].sum() + outputs[1].sum()).backward()


def _reference(learner: Learner, views: Views) -> None:
    """Do a training step in the order of the published code.

    The matrix products are the same as in our step. The losses have no centres and no weights, and all patches count.
    """
    options = learner.options
    alignment = align(views, options.views.global_side, options.views.local_side, device=learner.device)
    images, crops = (pixels.unflatten(0, (-1, len(views))) for pixels in _pixels(learner, views))
    samples = alignment.source.shape[2]
    with torch.no_grad():  # the published code runs the teacher once for each group of maps
        first = learner.teacher(images, crops[:0], alignment.target[:, :, :samples])
        second = learner.teacher(images, crops[:0], alignment.target[:, :, samples:])
        cls = first.classes[0] @ first.prototypes.T  # [2 b k]
        patches = first.patches @ first.prototypes.T  # [2 b m k]
        local = (second.patches @ second.prototypes.T).unflatten(2, (len(crops), -1))  # [2 b L m2 k]
        valid = alignment.valid[:, :, :samples], alignment.valid[:, :, samples:].unflatten(2, (len(crops), -1))
        mixed = 0.5 * masked_mean(patches, valid[0]) + 0.5 * cls
        mixed_local = 0.5 * masked_mean(local, valid[1]) + 0.5 * cls[:, :, None]  # [2 b L k]
    student: Predictions = learner.student(images, crops, alignment.source)
    logits, local_logits = student.classes @ student.prototypes.T, student.local_classes @ student.prototypes.T
    learner.optimizer.zero_grad(set_to_none=True)
    losses = [_entropy(cls[1 - view], logits[0, view]) + _entropy(mixed[1 - view], logits[1, view]) for view in (0, 1)]
    for crop in range(len(crops)):
        for view in (0, 1):
            losses += [
                _entropy(cls[view], local_logits[0, crop]),
                _entropy(mixed_local[view, :, crop], local_logits[1, crop]),
            ]
    rows = (student.patches @ student.prototypes.T).flatten(0, 1)
    losses.append(_entropy(patches.flip(0).flatten(0, 1), rows))
    torch.stack(losses).mean().backward()
    learner.optimizer.step()
    update_teacher(learner.teacher, learner.student, 0.996)


def _entropy(target: Tensor, logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of predictions and targets, with the usual temperatures of teacher and student.

    target, logits: logits of the teacher and of the student, `[... k]`.
    """
    return -((target / 0.04).softmax(-1) * (logits / 0.1).log_softmax(-1)).sum(-1).mean()


WORK: dict[str, Any] = {"step": _step, "bare": _bare, "reference": _reference}


def _peak(options: argparse.Namespace, kind: str) -> str:
    """Run one step in its own process, and return a text with its peak memory."""
    values = {name: value for name, value in vars(options).items() if name not in ("only", "kinds")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    command = [sys.executable, "scripts/benchmark.py", "pretraining", *flags, f"--only={kind}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--out-dim", type=int, default=65536)
    parser.add_argument("--local-crops", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="kinds of steps to measure")
    parser.add_argument("--only", choices=KINDS, help="run one step of this kind, and print its peak memory")
    return parser
