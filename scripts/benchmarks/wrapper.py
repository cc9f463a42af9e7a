"""Compare the library with the stage: `python scripts/benchmark.py wrapper --backbone digits-vit --objective simclr`.

The library and the stage compute projected gradients of the same decoded images, in turns. The work of the stage is
that of `extract_gradients.py` for a batch: prepare the views, run the engine. The benchmark prints the median ratio of
their times.
"""

import argparse
import statistics
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._rounds import in_turns, ratio
from fungi.backbones.loading import load_backbone
from fungi.config import DINOConfig, KLConfig, SimCLRConfig
from fungi.objectives.binding import BoundObjective, bind
from fungi.runtime.device import choose_device
from fungi.views.loading import prepare
from fungi.wrapper import FUNGIWrapper

CONFIGS = {"kl": KLConfig, "dino": DINOConfig, "simclr": SimCLRConfig}


def main(arguments: list[str] | None = None) -> int:
    """Measure the library and the stage, and print the results."""
    options = _parser().parse_args(arguments)
    device = choose_device(options.device)
    backbone = load_backbone(options.backbone, random_init=options.backbone != "digits-vit")
    wrapper = FUNGIWrapper(
        backbone.model,
        backbone.spec.layer,
        device,
        input_dim=backbone.input.size,
        use_fp16=options.half,
        extractor_configs=[CONFIGS[name]() for name in options.objective],
        image_input=backbone.input,
    )
    images = _images(options.images)
    wrapper.setup(_images(256))  # SimCLR takes its negatives from 256 images
    objectives = [_bound(name, wrapper, index) for index, name in enumerate(options.objective)]
    jobs = {"stage": lambda: _stage(wrapper, objectives, images), "wrapper": lambda: wrapper(images)}
    seconds = in_turns(jobs, options.rounds, device, elapsed=True)
    _print(options, seconds)
    return 0


def _bound(name: str, wrapper: FUNGIWrapper, index: int) -> BoundObjective:
    """Return the objective of the stage, with the negatives of the extractor with this index in the wrapper."""
    extractor: Any = wrapper.extractors[index]
    bound = bind(name, embedding_dim=wrapper.embeddings_dim, input_spec=wrapper.image_input, seed=wrapper.seed)
    return bound.to(wrapper.device).with_support(extractor.support)


def _stage(wrapper: FUNGIWrapper, objectives: list[BoundObjective], images: list[Image.Image]) -> None:
    """Compute the gradients of a batch of images as `extract_gradients.py` does, and copy them to the CPU."""
    for objective in objectives:
        views = objective.views
        batch = views.collate([prepare(views, image, 42, str(row)) for row, image in enumerate(images)])
        features = wrapper.engine.extract(batch, views, {objective.name: objective.loss})
        next(iter(features.gradients[objective.name].values())).cpu()


def _images(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (300, 400, 3), dtype=np.uint8)) for _ in range(count)]


def _print(options: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    for name, values in seconds.items():
        print(f"{name:8} {options.images / statistics.median(values):8.1f} images/s")
    print(f"time of the wrapper over that of the stage: {ratio(seconds['wrapper'], seconds['stage'])}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="digits-vit")
    parser.add_argument("--objective", nargs="+", default=["kl", "dino", "simclr"], choices=list(CONFIGS))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--half", action="store_true", help="compute in bfloat16")
    return parser
