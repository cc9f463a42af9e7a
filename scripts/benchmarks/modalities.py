"""Compare the time of extraction from texts and sounds with the time of the forward passes alone.

    python scripts/benchmark.py modalities                        (texts and sounds, about a minute on 2 cores)
    python scripts/benchmark.py modalities --backbone minilm --dataset pydocs --rows 256 --device cuda --dtype bfloat16

The benchmark prints four numbers per feature:

- the rows per second of the complete extraction: the part of view generation that the device does, forwards, heads,
  backward, gradients, projection;
- the rows per second of bare forwards: only the encoder, on the same groups of views;
- the ratio of their times;
- the rows per second of a process that prepares views: tokens of texts, spectrograms of sounds. In a real extraction,
  worker processes prepare views while the device computes.

For texts, the benchmark also prints the share of padding in the encoded tokens, twice: with groups of views of similar
lengths, and with all views in one group.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks._rounds import alternate
from fungi.backbones.loading import load_backbone
from fungi.data.base import Samples, resolve_dataset
from fungi.errors import FungiError
from fungi.gradients.assembly import build_engine
from fungi.gradients.engine import GradientEngine
from fungi.gradients.projection import draw_projection
from fungi.gradients.targets import find_target
from fungi.objectives.binding import BoundObjective, bind
from fungi.runtime.command import run_command
from fungi.runtime.device import autocast, choose_device, choose_dtype
from fungi.settings import setting
from fungi.views.loading import prepare

PAIRS = (("tiny-bert", "pydocs"), ("tiny-ssast", "tones"))


@dataclass(frozen=True, kw_only=True)
class ModalityBenchmark:
    """Flags of `scripts/benchmark.py modalities`."""

    backbone: str = setting("", "backbone; if absent, a small one for texts and a small one for sounds")
    dataset: str = setting("pydocs", "dataset for the backbone")
    data_dir: Path = setting(Path("data"), "folder of the datasets")
    random_init: bool = setting(False, "use random weights, which do not change the time")
    rows: int = setting(64, "number of rows of the train split")
    rounds: int = setting(3, "number of rounds")
    views_per_forward: int = setting(0, "number of views that are encoded at once; 0 is 64 on a CPU and 1024 on a GPU")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    dtype: str = setting("float32", "float32, bfloat16 or float16")

    def __post_init__(self) -> None:
        if self.rows < 1 or self.rounds < 1:
            raise FungiError("--rows and --rounds have to be at least 1.")


def measure(settings: ModalityBenchmark) -> None:
    """Measure each pair of a backbone and a dataset, and print its table."""
    pairs = ((settings.backbone, settings.dataset),) if settings.backbone else PAIRS
    for backbone, dataset in pairs:
        _measure_pair(settings, backbone, dataset)


def _measure_pair(settings: ModalityBenchmark, name: str, dataset: str) -> None:
    """Measure a backbone on a dataset, and print its table."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    spec = resolve_dataset(dataset, settings.data_dir)
    backbone = load_backbone(name, random_init=settings.random_init)
    input_spec = replace(backbone.input, **spec.input_options)
    samples = spec.open(settings.data_dir, "train")
    samples = samples.take(range(min(settings.rows, len(samples))))
    model = backbone.model.to(device)
    target = find_target(model, f"{backbone.spec.layer}:layer")
    matrix = draw_projection(backbone.spec.projection_dim, target.gradient_dim)
    engine = build_engine(
        model,
        [target],
        {"layer": matrix},
        device=device,
        dtype=dtype,
        views_per_forward=settings.views_per_forward,
    )
    print(f"\n{name} on {dataset}: {len(samples)} rows, {device}, {settings.dtype}, {torch.get_num_threads()} threads")
    print(f"{'feature':12}{'rows/s':>10}{'bare rows/s':>13}{'ratio':>8}{'prepared rows/s':>17}  padding")
    # KL encodes the same single view as the embeddings. Without gradients, only the encoder runs.
    embedding = bind("kl", embedding_dim=backbone.spec.embedding_dim, input_spec=input_spec, seed=42)
    _print_row("embeddings", settings, engine, embedding, samples, gradients=False)
    for objective in ("kl", "simclr"):
        bound = bind(objective, embedding_dim=backbone.spec.embedding_dim, input_spec=input_spec, seed=42)
        _print_row(objective, settings, engine, _with_negatives(bound).to(device), samples)


def _with_negatives(bound: BoundObjective) -> BoundObjective:
    """Return the objective with random negatives, as many as in a real extraction."""
    if not bound.objective.needs_support:
        return bound
    objective: Any = bound.objective
    count = objective.negative_samples * bound.support_views.n_views
    return bound.with_support({"negatives": torch.randn(count, objective.latent_dim)})


def _print_row(
    title: str,
    settings: ModalityBenchmark,
    engine: GradientEngine,
    bound: BoundObjective,
    samples: Samples,
    *,
    gradients: bool = True,
) -> None:
    """Measure one feature, and print its row of the table."""
    start = perf_counter()
    views = bound.views
    prepared = [prepare(views, samples.load(row), 42, samples.ids[row]) for row in range(len(samples))]
    preparation_time = perf_counter() - start
    batch = views.collate(prepared)
    extraction_times, forward_times = alternate(
        _extraction_of(engine, bound, batch, gradients),
        _bare_forwards_of(engine, bound, batch),
        settings.rounds,
        engine.device,
    )
    ratio = statistics.median(
        extraction / forward for extraction, forward in zip(extraction_times, forward_times, strict=True)
    )
    rates = [len(samples) / statistics.median(times) for times in (extraction_times, forward_times)]
    print(
        f"{title:12}{rates[0]:10.1f}{rates[1]:13.1f}{ratio:8.3f}{len(samples) / preparation_time:17.1f}  "
        f"{_padding(engine, bound, batch)}"
    )


def _extraction_of(engine: GradientEngine, bound: BoundObjective, batch: Any, gradients: bool) -> Callable[[], None]:
    """Return a function that extracts gradients of the batch if `gradients` is true, otherwise embeddings."""

    def work() -> None:
        if gradients:
            engine.extract(batch, bound.views, {bound.name: bound.loss})
        else:
            engine.embed(batch, bound.views)

    return work


def _bare_forwards_of(engine: GradientEngine, bound: BoundObjective, batch: Any) -> Callable[[], None]:
    """Return a function that only encodes the same groups of views."""
    inputs = [bound.views.render(part) for _, part in engine._groups(batch, bound.views)]

    @torch.inference_mode()
    def work() -> None:
        with autocast(engine.device, engine.dtype):
            for group in inputs:
                engine.encoder(group)

    return work


def _padding(engine: GradientEngine, bound: BoundObjective, batch: Any) -> str:
    """Return a text with the share of padding in the encoded tokens: in the real groups, and in a single group."""
    if not isinstance(batch, dict):
        return ""
    real = int(batch["attention_mask"].sum())
    in_groups = sum(part["input_ids"].numel() for _, part in engine._groups(batch, bound.views))
    in_one_group = batch["input_ids"].numel()
    return f"{100 * (1 - real / in_groups):.0f} % (one group: {100 * (1 - real / in_one_group):.0f} %)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status."""
    return run_command(
        ModalityBenchmark, measure, program="benchmark.py modalities", description=__doc__ or "", arguments=arguments
    )
