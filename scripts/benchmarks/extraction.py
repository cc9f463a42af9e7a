"""Compare extraction with bare forwards: `benchmark.py extraction --backbone vit-s16 --objective simclr`.

The benchmark prints the ratio of two times: the time of the complete extraction (views, forwards, heads, backward,
gradients, projection), and the time of the same number of bare forwards. Bare forwards only encode, with the same model
and dtype and the same number of views at once. Extraction and bare forwards alternate, so a change in the speed of the
machine does not change the ratio. The output is the median over rounds and the range. Weights are random and images are
noise, because they do not change the time.

`--views published native budget` compares several plans of views in one run: the cost of an image with each plan, in
bare forwards of the full input size.
"""

import argparse
import resource
import statistics
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks._rounds import alternate, in_turns, ratio
from fungi.backbones.base import BACKBONES
from fungi.backbones.encoders import WholeModel
from fungi.backbones.loading import load_backbone
from fungi.backbones.position_embedding import patch_size_of
from fungi.backbones.residual_stream import with_residual_dtype
from fungi.extraction.gradient_settings import parse_options
from fungi.gradients.assembly import build_engine
from fungi.gradients.engine import GradientEngine
from fungi.gradients.projection import draw_projection
from fungi.gradients.targets import find_target
from fungi.objectives.binding import BoundObjective, bind
from fungi.runtime.device import Stopwatch, autocast, choose_device, choose_dtype, keep_freed_memory
from fungi.runtime.seeds import seeded
from fungi.views.base import forwards_of
from fungi.views.plans import PLANS, PUBLISHED, PlanName, ViewPlan

BARE_FORWARDS = 64
"""Number of bare forwards per round, to which the plans of views are compared."""


@dataclass(frozen=True)
class Setup:
    """An engine, its objectives, prepared batches of the images, and the bare model.

    batches: identity of a kind of views -> batch of these views. images: number of images. plain_view: the generator of
    the view for embeddings.
    """

    engine: GradientEngine
    objectives: list[BoundObjective]
    batches: dict[str, Any]
    model: nn.Module
    images: int
    plain_view: Any

    @property
    def forwards_per_image(self) -> int:
        """Number of views per image. Embeddings and KL use the same view."""
        counts = {bound.views.identity: bound.views.n_views for bound in self.objectives}
        return sum(counts.values()) + len(set(self.batches) - set(counts))

    @property
    def counted_forwards(self) -> float:
        """Number of forwards of the full size per image. A smaller view counts by its area."""
        counts = {bound.views.identity: forwards_of(bound.views) for bound in self.objectives}
        return sum(counts.values()) + len(set(self.batches) - set(counts))


def main(arguments: list[str] | None = None) -> int:
    """Measure extraction and print the results."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    if options.views != [PUBLISHED]:
        _compare_views(options)
        return 0
    setup, peak_before = _setup(options), _peak_memory(options.device)
    print(f"{options.backbone}, {setup.engine.device}, {options.dtype}, {torch.get_num_threads()} threads, ", end="")
    print(f"{'+'.join(options.objective)}, {setup.images} images x {setup.forwards_per_image} views")
    print(f"computed: {setup.engine.encoder.computed_part}")
    ours, bare = alternate(lambda: _extract(setup), lambda: _bare(setup), options.rounds, setup.engine.device)
    _print_figures(setup, ours, bare, peak_before)
    if options.dtype != "float32":
        float32 = {"dtype": "float32", "residual_dtype": "float32"}
        _print_agreement(setup, _setup(argparse.Namespace(**{**vars(options), **float32})).engine)
    if setup.engine.device.type == "cuda":
        _print_matrix_rate(setup, bare)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py extraction", description=__doc__)
    parser.add_argument("--backbone", default="vit-s16", choices=BACKBONES.names(), metavar="NAME")
    parser.add_argument("--objective", nargs="+", default=["kl", "dino", "simclr"])
    parser.add_argument("--with-embeddings", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--views", nargs="+", default=[PUBLISHED], choices=PLANS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument(
        "--residual-dtype", default="float32", choices=["float32", "bfloat16"], help="dtype between the blocks"
    )
    parser.add_argument("--set", nargs="+", default=[], help="options of objectives, such as dino.resize_on=device")
    parser.add_argument("--images", type=int, default=4, help="number of images in a batch")
    parser.add_argument("--views-per-forward", type=int, default=0, help="0 is the usual number on the device")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short-cut", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--projection-dim", type=int, default=0, help="0 is the usual dimension for the backbone")
    return parser


def _compare_views(options: argparse.Namespace) -> None:
    """Print the cost of an image with each plan of views, in bare forwards of the full size."""
    setups = {plan: _setup(options, plan) for plan in options.views}
    first = setups[options.views[0]]
    device, images = first.engine.device, first.images
    print(f"{options.backbone}, {device}, {options.dtype}, {torch.get_num_threads()} threads, ", end="")
    print(f"{'+'.join(options.objective)}, {images} images, computed: {first.engine.encoder.computed_part}")
    views = max(BARE_FORWARDS // first.engine.views_per_forward, 1) * first.engine.views_per_forward
    jobs = {plan: partial(_extract, setup) for plan, setup in setups.items()}
    seconds = in_turns({"bare": partial(_bare, first, views), **jobs}, options.rounds, device)
    per_forward = [second / views for second in seconds["bare"]]
    print(f"{'views':12} {'views/image':>12} {'counted by area':>16}   measured, in bare forwards per image")
    for plan, setup in setups.items():
        per_image = [second / images for second in seconds[plan]]
        counted = setup.counted_forwards
        print(f"{plan:12} {setup.forwards_per_image:12} {counted:16.1f}   {ratio(per_image, per_forward)}")


def _setup(options: argparse.Namespace, views: PlanName = PUBLISHED) -> Setup:
    """Return everything that the benchmark needs, for one plan of views."""
    device = choose_device(options.device)
    backbone = load_backbone(options.backbone, random_init=True)
    model, spec = backbone.model.to(device), backbone.spec
    target = find_target(model, f"{spec.layer}:layer")
    matrix = draw_projection(options.projection_dim or spec.projection_dim, target.gradient_dim)
    dtype = choose_dtype(options.dtype, device)
    engine = build_engine(
        with_residual_dtype(model, options.residual_dtype, [spec.layer], dtype=dtype),
        [target],
        {"layer": matrix},
        device=device,
        dtype=dtype,
        views_per_forward=options.views_per_forward,
        short_cut=options.short_cut,
        stopwatch=Stopwatch(device, precise=True),
    )
    plan = ViewPlan(views, patch_size_of(model))
    objective_options = parse_options(tuple(options.set))
    objectives = [
        _bound(name, spec.embedding_dim, backbone.input, device, plan, objective_options.get(name))
        for name in options.objective
    ]
    batches = {bound.views.identity: _collated(bound.views, options.images) for bound in objectives}
    plain = backbone.input.views("plain")
    if options.with_embeddings:
        batches.setdefault(plain.identity, _collated(plain, options.images))
    return Setup(engine, objectives, batches, model, options.images, plain)


def _bound(
    name: str, embedding_dim: int, image_input: Any, device: torch.device, plan: ViewPlan, options: Any
) -> BoundObjective:
    """Return an objective on the device, with the usual number of negatives, whose values are random."""
    bound = bind(name, embedding_dim=embedding_dim, input_spec=image_input, seed=42, options=options, plan=plan)
    if name == "simclr":
        negatives = torch.randn(bound.objective.negative_samples * bound.views.n_views, bound.objective.latent_dim)
        bound = bound.with_support({"negatives": negatives})
    return bound.to(device)


def _collated(views: Any, images: int) -> Any:
    """Return a batch of views of noise images, as the loader's workers make it. This time is not measured."""
    noise = np.random.default_rng(0)
    prepared = []
    for index in range(images):
        image = Image.fromarray(noise.integers(0, 256, (300, 400, 3), dtype=np.uint8))
        with seeded(42, "views", str(index)):
            prepared.append(views.prepare(image))
    return views.collate(prepared)


def _extract(setup: Setup) -> None:
    """Extract the gradients of all objectives and, if they have a batch of their own, the embeddings."""
    for identity, batch in setup.batches.items():
        same_views = [bound for bound in setup.objectives if bound.views.identity == identity]
        if same_views:
            losses = {bound.name: bound.loss for bound in same_views}
            setup.engine.extract(batch, same_views[0].views, losses)
        else:
            setup.engine.embed(batch, setup.plain_view)


@torch.inference_mode()
def _bare(setup: Setup, views: int = 0) -> None:
    """Run as many bare forwards as the extraction has views, or `views` of them, on images in memory."""
    size = setup.engine.views_per_forward
    images = _bare_images(setup, size)
    remaining = views or setup.images * setup.forwards_per_image
    with autocast(setup.engine.device, setup.engine.dtype):
        while remaining > 0:
            setup.model(images[: min(remaining, size)])
            remaining -= size


def _bare_images(setup: Setup, count: int) -> Tensor:
    side = setup.objectives[0].views.input.size
    return _noise(count, side, setup.engine.device)


@cache
def _noise(count: int, side: int, device: torch.device) -> Tensor:
    return torch.randn(count, 3, side, side, device=device)


def _print_figures(setup: Setup, ours: list[float], bare: list[float], peak_before: float) -> None:
    """Print the rates, the ratio of the times, the share of each step, and the peak memory.

    ours, bare: seconds of the extraction and of the bare forwards in each round. peak_before: peak memory in MiB before
    the measurement.
    """
    views = setup.images * setup.forwards_per_image
    print(f"{'images/s':28} {setup.images / statistics.median(ours):10.2f}")
    print(f"{'view forwards/s':28} {views / statistics.median(ours):10.1f}")
    print(f"{'bare forwards/s':28} {views / statistics.median(bare):10.1f}")
    print(f"{'total / bare forwards':28}      {ratio(ours, bare)}")
    steps = setup.engine.stopwatch.seconds
    for step, seconds in sorted(steps.items(), key=lambda item: -item[1]):
        print(f"  share of {step:19} {100 * seconds / sum(steps.values()):9.1f} %")
    print(f"{'peak memory, MiB':28} {_peak_memory(setup.engine.device):10.0f}   ({peak_before:.0f} before work)")


def _print_agreement(setup: Setup, float32_engine: GradientEngine) -> None:
    """Print the mean cosine between the features in the dtype of the engine and the features in float32.

    float32_engine: engine that computes everything in float32, with the same weights and projection.
    """
    for bound in setup.objectives:
        batch = setup.batches[bound.views.identity]
        half = setup.engine.extract(batch, bound.views, {bound.name: bound.loss})
        full = float32_engine.extract(batch, bound.views, {bound.name: bound.loss})
        pairs = (
            (half.gradients[bound.name]["layer"], full.gradients[bound.name]["layer"]),
            (half.embeddings, full.embeddings),
        )
        gradient, embedding = (
            float(torch.cosine_similarity(first.float(), second.float(), dim=-1).mean()) for first, second in pairs
        )
        print(f"cosine to float32: {bound.name} gradient {gradient:.5f}, embedding {embedding:.5f}")


def _print_matrix_rate(setup: Setup, bare: list[float]) -> None:
    """Print the rate of a large matrix product, and the rate of the bare forwards as a percentage of that rate."""
    device, dtype = setup.engine.device, setup.engine.dtype
    left, right = (torch.randn(8192, 8192, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        left @ right  # the product is freed at once

    times, _ = alternate(multiply, lambda: None, 10, device)
    rate = 2 * 8192**3 / statistics.median(times)
    from torch.utils.flop_counter import FlopCounterMode

    image = _bare_images(setup, 1)[:1]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        WholeModel(setup.model)(image)
    views = setup.images * setup.forwards_per_image
    achieved = counter.get_total_flops() * views / statistics.median(bare)
    print(f"matrix products {rate / 1e12:.0f} TFLOP/s; bare forwards reach {100 * achieved / rate:.0f} % of it")


def _peak_memory(device: torch.device | str) -> float:
    """Return the largest memory in MiB: of the device on a GPU, of the process on a CPU."""
    if torch.device(device if device != "auto" else "cpu").type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
