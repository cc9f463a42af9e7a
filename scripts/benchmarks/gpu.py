"""Measure extraction on a GPU, and where the time goes: `python scripts/benchmark.py gpu`.

One run measures:

- the rate of matrix products;
- bare forwards, eager and compiled;
- each objective alone and all together, eager and compiled: in images/s, as time over the time of bare forwards, and in
  percent of the rate of matrix products;
- the share of the time in which the device is busy, the longest kernels, and the attention kernels by name;
- the peak memory, and the rate of copies to the device;
- images/s for each number of decoding processes, and the views that one core prepares per second from a JPEG file;
- the complete stage from JPEG files to HDF5, without and with compilation.

Weights are random and pictures are generated, because they do not change the time. `--peer FOLDER` also times the
published library, from a checkout in this folder. To check the benchmark on a CPU, run a small version:
`--device cpu --backbone digits-vit --images 4 --files 0 --no-compiled`.
"""

import argparse
import io
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks._device_use import JpegPictures, print_kernels, print_peak_memory, print_upload, print_workers
from benchmarks._peer import print_peer
from benchmarks._rounds import alternate
from benchmarks.extraction import Setup, _collated, _extract, _parser, _setup
from fungi.extraction import extract_gradients
from fungi.extraction.gradient_settings import GradientSettings
from fungi.gradients.engine import GradientEngine
from fungi.runtime.device import Stopwatch, autocast, synchronize
from fungi.runtime.log import configure
from fungi.runtime.precision import tf32_products
from fungi.runtime.seeds import seeded

SIZE = (500, 375)
"""Width and height of the JPEG pictures: usual values of ImageNet."""
DIFFERENT_FILES = 32
"""Number of JPEG files with different pictures. All further files are copies of them."""


def main(arguments: list[str] | None = None) -> int:
    """Measure extraction and print the results."""
    parser = _parser()
    parser.prog, parser.description = "benchmark.py gpu", __doc__
    parser.set_defaults(backbone="vit-b16", device="cuda", dtype="bfloat16", images=64, rounds=5)
    parser.add_argument("--files", type=int, default=8192, help="JPEG files for the complete stage; 0 leaves it out")
    parser.add_argument("--kernels", type=int, default=25, help="number of kernels in the table of the profiler")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8, 15], help="numbers of decoding processes"
    )
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="checkout of the published library, to time it too")
    parser.add_argument(
        "--compiled", action=argparse.BooleanOptionalAction, default=True, help="also measure compiled code"
    )
    options = parser.parse_args(arguments)
    if torch.device(options.device).type == "cpu":
        options.dtype = options.residual_dtype = "float32"
    setup = _setup(options)
    setup.engine.stopwatch = Stopwatch(setup.engine.device)  # not precise: that would wait for the GPU at each step
    device = setup.engine.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {options.backbone}, {options.dtype}, batches of {options.images} images")
    product_rate, operations = _matrix_rate(device, setup.engine.dtype), _operations(setup.model, setup)
    print(f"matrix products {product_rate / 1e12:.1f} TFLOP/s; one forward {operations / 1e9:.2f} GFLOP")
    bare_rate = _print_bare(setup, product_rate, operations, options.rounds, compiled=options.compiled)
    _print_objectives("eager", setup, bare_rate, product_rate, operations, options.rounds)
    print_kernels(setup, options.kernels)
    print_peak_memory(setup)
    print_upload(device)
    files = [_jpeg(seed) for seed in range(DIFFERENT_FILES)]
    print_workers(setup, files, options.workers, 4 * options.images)
    if options.peer:
        pictures = JpegPictures(files)
        print_peer(setup, options.peer, [pictures(row) for row in range(options.images)], options.rounds)
    if options.compiled:
        _print_compiled(setup, bare_rate, product_rate, operations, options)
    _print_float32(setup, options.rounds)
    _print_decoding(setup)
    if options.files:
        _print_stage(options)
    return 0


def _print_compiled(
    setup: Setup, bare_rate: float, product_rate: float, operations: float, options: argparse.Namespace
) -> None:
    """Print the time of compilation, and the speed of the compiled code (arguments as for `_print_objectives`)."""
    start = perf_counter()
    setup.engine.compile()
    _extract(setup)
    synchronize(setup.engine.device)
    print(f"first batch of compiled code: {perf_counter() - start:.1f} s")
    _print_objectives("compiled", setup, bare_rate, product_rate, operations, options.rounds)
    print_kernels(setup, options.kernels)
    print_peak_memory(setup)


def _seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median of the time of some work, after a first round that does not count."""

    def run() -> None:
        work()  # its result is freed at once

    seconds, _ = alternate(run, lambda: None, rounds, device)
    return statistics.median(seconds)


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _seconds(lambda: left @ right, device, 10)


@torch.no_grad()
def _operations(model: nn.Module, setup: Setup) -> int:
    """Return the number of operations of one bare forward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(_pictures(setup, 1))
    return counter.get_total_flops()


def _pictures(setup: Setup, count: int) -> torch.Tensor:
    side = setup.objectives[0].views.input.size
    return torch.randn(count, 3, side, side, device=setup.engine.device)


def _print_bare(setup: Setup, product_rate: float, operations: float, rounds: int, *, compiled: bool) -> float:
    """Print the bare forwards per second, eager and (if `compiled` is true) compiled. Return the larger rate."""
    views, device = setup.engine.views_per_forward, setup.engine.device
    images, rates = _pictures(setup, views), []
    models = {"eager": setup.model} | ({"compiled": torch.compile(setup.model)} if compiled else {})
    for label, model in models.items():

        @torch.inference_mode()
        def forward(model: Callable[..., object] = model) -> None:
            with autocast(device, setup.engine.dtype):
                model(images)

        rates.append(views / _seconds(forward, device, rounds))
        share = 100 * rates[-1] * operations / product_rate
        print(f"bare forwards/s, {label:8} {rates[-1]:10.0f}   {share:5.1f} % of the rate of products")
    torch._dynamo.reset()
    return max(rates)


def _print_objectives(
    label: str, setup: Setup, bare_rate: float, product_rate: float, operations: float, rounds: int
) -> None:
    """Print the speed of each objective alone, then of all objectives with the embeddings.

    bare_rate: bare forwards per second. product_rate: operations per second of a matrix product. operations: number of
    operations of one forward.
    """
    single = [
        replace(setup, objectives=[bound], batches={bound.views.identity: setup.batches[bound.views.identity]})
        for bound in setup.objectives
    ]
    for subset in [*single, setup]:
        names = "+".join(bound.name for bound in subset.objectives)
        per_second = subset.images / _seconds(lambda subset=subset: _extract(subset), setup.engine.device, rounds)
        forwards = per_second * subset.forwards_per_image
        share = 100 * forwards * operations / product_rate
        print(
            f"{label:8} {names:16} {per_second:9.1f} images/s   {forwards:8.0f} forwards/s   time / bare forwards"
            f" {bare_rate / forwards:6.3f}   {share:5.1f} % of the rate of products"
        )


def _print_float32(setup: Setup, rounds: int) -> None:
    """Print the speed of float32 embeddings: with exact products, and with TF32 products."""
    engine = GradientEngine(setup.model, device=setup.engine.device)
    batch = setup.batches.get(setup.plain_view.identity)
    batch = _collated(setup.plain_view, setup.images) if batch is None else batch
    embeddings = []
    for label, uses_tf32 in (("exact", False), ("TF32", True)):
        with tf32_products(engine.device, enabled=uses_tf32):
            embeddings.append(engine.embed(batch, setup.plain_view)[:, 0])
            per_second = setup.images / _seconds(lambda: engine.embed(batch, setup.plain_view), engine.device, rounds)
        print(f"float32 embeddings, {label} products: {per_second:.0f} images/s")
    print(f"smallest cosine of exact and TF32 embeddings: {float(torch.cosine_similarity(*embeddings).min()):.7f}")


def _print_decoding(setup: Setup) -> None:
    """Print the files per second of one core: if it only decodes files, and if it also prepares all views."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    content = _jpeg(0)
    generators = {bound.views.identity: bound.views for bound in setup.objectives}

    def decode() -> Image.Image:
        return Image.open(io.BytesIO(content)).convert("RGB")

    def prepare() -> None:
        image = decode()
        with seeded(42, "views"):
            for views in generators.values():
                views.prepare(image)

    for label, work in (("decoded", decode), ("decoded and all views prepared", prepare)):
        per_second = 1 / _seconds(work, torch.device("cpu"), 20)
        print(f"{label}: {per_second:.1f} files of {SIZE[0]} x {SIZE[1]} pixels per second and core")
    torch.set_num_threads(threads)


def _jpeg(seed: int) -> bytes:
    """Return a JPEG picture of noise at several scales, with roughly the frequencies of photographs."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((SIZE[1], SIZE[0], 3))
    for scale in (4, 16, 64):
        noise = generator.integers(0, 256, (SIZE[1] // scale + 2, SIZE[0] // scale + 2, 3), dtype=np.uint8)
        picture += np.asarray(Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)) / 3
    file = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _print_stage(options: argparse.Namespace) -> None:
    """Time the complete stage from JPEG files to HDF5: without compilation, then with it."""
    configure()
    with tempfile.TemporaryDirectory() as folder:
        contents = [_jpeg(seed) for seed in range(DIFFERENT_FILES)]
        for row in range(options.files):
            path = Path(folder) / "pictures" / "train" / str(row % 2) / f"{row:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[row % len(contents)])
        _print_run(options, Path(folder), "off")
        _print_run(options, Path(folder), "on")


def _print_run(options: argparse.Namespace, folder: Path, compilation: str) -> None:
    """Extract gradients from the JPEG files below a folder, and print the time. compilation: `on` or `off`."""
    settings = GradientSettings(
        dataset=f"pictures=folder:{folder / 'pictures'}",
        backbone=options.backbone,
        split=("train",),
        root=folder / compilation,
        random_init=True,
        device=str(options.device),
        dtype=options.dtype,
        residual_dtype=options.residual_dtype,
        objective=tuple(options.objective),
        set=tuple(options.set),
        with_embeddings=options.with_embeddings,
        batch_size=options.images,
        compile=compilation,
    )
    start = perf_counter()
    extract_gradients.run(settings)
    seconds = perf_counter() - start
    print(f"JPEG files to HDF5, --compile {compilation}: {options.files} files in {seconds:.1f} s: ", end="")
    print(f"{options.files / seconds:.1f} images/s")
