"""Measure a training step of detection: `python scripts/benchmark.py detection --rounds 5`.

The step is compared with a step of a simple loop: the same images through torchvision's COCO dataset and transforms and
torch's loader, then forward, backward and optimizer step of the same detector. The two kinds of steps take turns. On a
CPU the benchmark counts processor time. Images, boxes and weights are random, because they do not change the time.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks._rounds import in_turns, ratio
from fungi.pretraining.dense.detection import Detection
from fungi.pretraining.dense.settings import DetectSettings
from fungi.pretraining.processes import World
from fungi.runtime.device import choose_device


def main(arguments: list[str] | None = None) -> int:
    """Measure the step and print the ratio."""
    parser = argparse.ArgumentParser(prog="benchmark.py detection", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="number of steps in a round")
    parser.add_argument("--side", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    logging.disable(logging.INFO)
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for split, count in (("train2017", options.steps), ("val2017", 1)):
            write_random_coco(root, split, count, options.side)
        settings = DetectSettings(
            coco=root,
            backbone="udi-vitt16",
            random_init=True,
            channels=64,
            proposals=64,
            short_sides=(options.side,),
            crop=(options.side, options.side),
            crop_short_sides=(options.side,),
            num_workers=0,
            epochs=1,
            output_dir=root / "run",
        )
        detection = Detection(settings, settings.load_network(), World(), device)
        jobs = {"step": lambda: detection._learn(0), "bare": bare_steps(detection)}
        seconds = in_turns(jobs, options.rounds, device)
    print(f"step / bare: {ratio(seconds['step'], seconds['bare'])}")
    return 0


def bare_steps(detection: Detection) -> Callable[[], None]:
    """Return a function that trains one epoch in a simple loop, with torchvision's dataset and torch's loader."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    source, device = detection.images.images, detection.device
    transforms = v2.Compose(
        [v2.ToImage(), v2.RandomHorizontalFlip(), v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32, scale=True)]
    )
    images = CocoDetection(source.root, str(source.annotation_file), transforms=transforms)
    wrapped = wrap_dataset_for_transforms_v2(images, target_keys=("boxes", "labels", "masks"))

    def run() -> None:
        detection.model.train()
        for step, batch in enumerate(DataLoader(wrapped, batch_size=1, shuffle=True, collate_fn=list)):
            torch.manual_seed(step)
            targets = [{name: value.to(device) for name, value in target.items()} for _, target in batch]
            losses = detection.model([image.to(device) for image, _ in batch], targets)
            detection.optimizer.zero_grad(set_to_none=True)
            sum(losses.values()).backward()
            detection.optimizer.step()

    return run


def write_random_coco(root: Path, split: str, count: int, side: int) -> None:
    """Write `count` random square images with three rectangles each, in COCO's layout. side: in pixels."""
    random = np.random.default_rng(0)
    (root / split).mkdir()
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / split / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "height": side, "width": side})
        for _ in range(3):
            x, y, width, height = (int(value) for value in random.integers(8, side // 2, 4))
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": 1 + len(annotations) % 3}
            entry |= {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0, "segmentation": [corners]}
            annotations.append(entry)
    categories = [{"id": number, "name": f"class {number}"} for number in (1, 2, 3)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
