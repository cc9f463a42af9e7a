"""A step of pretraining: `python scripts/benchmark.py pretraining --batch-size 4`.

Against the bare work of the same views through the same vision transformer (student forward and backward, teacher
forward of the global crops), and against a plain reading of the reference's order: the teacher twice, all logits of
local patches formed, a logarithm of a softmax for each pair. Rounds alternate; medians of times (of processor time on
a CPU) and of the rounds' ratios, their range, and peak memory of a process of its own for each.
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
from fungi.pretraining.udi.optimisation import move_teacher
from fungi.pretraining.udi.sampling import masked_mean
from fungi.pretraining.udi.views import ViewOptions, Views, collate, make_views
from fungi.runtime.device import choose_device, keep_freed_memory
from fungi.runtime.transfers import upload
from fungi.views.image import IMAGENET
from fungi.views.pixels import normalize

KINDS = ("step", "bare", "reference")
SCHEDULE = StepSchedule(step=0, rate=1e-4, weight_decay=0.04, teacher_momentum=0.996, temperature=0.04)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    device = choose_device(options.device)
    learner, views = _prepared(options, device)
    kinds = options.kinds
    work = {kind: (lambda kind=kind: WORK[kind](learner, views)) for kind in KINDS}
    if options.only:
        work[options.only]()
        (peak,) = re.findall(
            r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")
        )  # getrusage adds the parent's
        print(f"peak {int(peak) / 1024:.0f} MiB")
        return 0
    seconds = in_turns({kind: work[kind] for kind in kinds}, options.rounds, device)
    for over, under in (("step", "bare"), ("reference", "step"), ("reference", "bare")):
        if over in kinds and under in kinds:
            print(f"{over} / {under}: {ratio(seconds[over], seconds[under])}", flush=True)
    for kind in kinds:
        print(f"{kind:10} {statistics.median(seconds[kind]):7.2f} s  {_peak(options, kind)}", flush=True)
    return 0


def _prepared(options: argparse.Namespace, device: torch.device) -> tuple[Learner, Views]:
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
    """Return normalised global and local crops, `[v*b 3 s s]`, on the device."""
    images, crops = (upload(pixels.flatten(0, 1), learner.device) for pixels in (views.globals, views.locals))
    return normalize(images, IMAGENET), normalize(crops, IMAGENET)


def _bare(learner: Learner, views: Views) -> None:
    images, crops = _pixels(learner, views)
    student, teacher = (network.backbone.backbone for network in (learner.student, learner.teacher))
    with torch.no_grad():
        run_blocks(teacher, embed(teacher, images))
    learner.optimizer.zero_grad(set_to_none=True)
    (run_blocks(student, embed(student, images)).sum() + run_blocks(student, embed(student, crops)).sum()).backward()


def _reference(learner: Learner, views: Views) -> None:
    """Compute the same products and losses in the reference's order, without centres, validity and weights."""
    options = learner.options
    alignment = align(views, options.views.global_side, options.views.local_side, device=learner.device)
    images, crops = (one.unflatten(0, (-1, len(views))) for one in _pixels(learner, views))
    samples = alignment.source.shape[2]
    with torch.no_grad():  # once for each group of maps
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
    losses = [_entropy(cls[1 - a], logits[0, a]) + _entropy(mixed[1 - a], logits[1, a]) for a in (0, 1)]
    for place in range(len(crops)):
        for b in (0, 1):
            losses += [
                _entropy(cls[b], local_logits[0, place]),
                _entropy(mixed_local[b, :, place], local_logits[1, place]),
            ]
    rows = (student.patches @ student.prototypes.T).flatten(0, 1)
    losses.append(_entropy(patches.flip(0).flatten(0, 1), rows))
    torch.stack(losses).mean().backward()
    learner.optimizer.step()
    move_teacher(learner.teacher, learner.student, 0.996)


def _entropy(target: Tensor, logits: Tensor) -> Tensor:
    return -((target / 0.04).softmax(-1) * (logits / 0.1).log_softmax(-1)).sum(-1).mean()


WORK: dict[str, Any] = {"step": _step, "bare": _bare, "reference": _reference}


def _peak(options: argparse.Namespace, kind: str) -> str:
    """Peak memory of one such step, in a process of its own."""
    given = {name: value for name, value in vars(options).items() if name not in ("only", "kinds")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
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
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="what is measured")
    parser.add_argument("--only", choices=KINDS, help="one step of one kind, and its peak memory")
    return parser
