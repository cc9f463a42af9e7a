"""Compare segmentation with bare forwards, FAISS and another order of steps: `benchmark.py segmentation`.

The benchmark prints three ratios:

- dense features (tokens, neighbours, loss, gradients, projection) over the same number of bare forwards of the same
  model at the same size, for each kind of projection;
- exact search over FAISS's flat index in the same bank, which must return the same rows;
- our evaluation over an evaluation in the order of steps of other open-source implementations, which must have the
  same IoU.

The two works of a ratio take turns. On a CPU the benchmark counts processor time. Weights, images and banks are random,
because they do not change the time. The support bank is small (`--support-rows`), because the time of exact
search grows with its rows: 1,025 queries x rows x width multiply-adds per image. The benchmark prints this number. The
real number is smaller by a quarter, because one quarter of the tokens has no negative and is not searched.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from benchmarks._rounds import in_turns, ratio
from fungi.backbones.base import BACKBONES
from fungi.backbones.loading import load_backbone
from fungi.data.base import VOID
from fungi.evaluators.segmentation import confusion, segmentation_scores
from fungi.gradients.khatri_rao import make_projector
from fungi.gradients.projection import draw_projection, product_dtype
from fungi.gradients.targets import find_target
from fungi.runtime.device import autocast, choose_device, choose_dtype, keep_freed_memory
from fungi.search.stored import BankSearch
from fungi.segmentation.dense import DenseExtractor, Support, grid_of, set_input_size
from fungi.segmentation.scoring import Predictor
from fungi.store.banks import Bank, BankManifest, PatchRows
from fungi.views.scenes import SceneView

PATCH, CLASSES = 16, 21
"""Side of a patch in pixels, and number of classes: the values of Pascal VOC."""


def main(arguments: list[str] | None = None) -> int:
    """Measure segmentation and print the ratios."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        print(f"{options.backbone}, {options.input_size} px, {device}, {torch.get_num_threads()} threads")
        _measure_features(options, device)
        _measure_search(options, device, Path(folder) / "search")
        _measure_evaluation(options, device, Path(folder) / "evaluation")
    return 0


def _measure_features(options: argparse.Namespace, device: torch.device) -> None:
    """Print the time of dense features over bare forwards, for each kind of projection."""
    spec, dtype = BACKBONES[options.backbone], choose_dtype(options.dtype, device)
    backbone = load_backbone(options.backbone, random_init=True)
    set_input_size(backbone.model, options.input_size)
    model = backbone.model.to(device)
    target = find_target(model, spec.layer)
    views = SceneView(size=options.input_size, statistics=backbone.input.statistics)
    support = _support(spec.embedding_dim, options.support_rows, device)
    images = torch.randint(0, 256, (options.images, 3, options.input_size, options.input_size), device=device).byte()
    rendered, draws = views.render(images), list(range(options.images))

    def bare() -> None:
        with torch.inference_mode(), autocast(device, dtype):
            model.forward_features(rendered)

    def features_with(kind: str) -> Callable[[], None]:
        """Return a function that computes dense features with this kind of projection."""
        matrix = draw_projection(spec.projection_dim, target.gradient_dim, kind=kind)
        projector = make_projector(matrix, device, product_dtype(dtype))
        extractor = DenseExtractor(model, target, projector, views, device=device, dtype=dtype)

        def features() -> None:
            extractor.features("embeddings+simclr", images, draws, support)

        return features

    jobs = {"bare": bare} | {kind: features_with(kind) for kind in options.kinds}
    seconds = in_turns(jobs, options.rounds, device)
    tokens = grid_of(model) ** 2 + 1
    operations = tokens * options.support_rows * spec.embedding_dim / 1e9
    print(f"bare forwards: {statistics.median(seconds['bare']):.3f} s for {options.images} images")
    for kind in options.kinds:
        print(f"dense features with {kind}: {ratio(seconds[kind], seconds['bare'])} x bare")
    print(f"of which search: {operations:.1f} G multiply-adds per image in {options.support_rows} support rows")


def _measure_search(options: argparse.Namespace, device: torch.device, folder: Path) -> None:
    """Print the time of exact search over FAISS's flat index, and whether both return the same rows."""
    width = 2 * BACKBONES[options.backbone].embedding_dim
    rows = _random(options.bank_rows, width)
    bank = Bank.create(folder, BankManifest(width, 1, "float32", (len(rows),), {}))
    bank.write(0, rows, np.zeros((len(rows), 1), dtype=np.int64))
    queries = torch.from_numpy(_random(1024, width)).to(device)
    exact, flat = BankSearch(bank, device), BankSearch(bank, device, "faiss")
    (_, exact_rows), (_, flat_rows) = exact(queries, 30), flat(queries, 30)
    exact_rows, flat_rows = exact_rows.sort(dim=1).values, flat_rows.sort(dim=1).values
    same = bool((exact_rows == flat_rows).float().mean() > 0.9999)  # rounding can decide which row is the last
    jobs: dict[str, Callable[[], Any]] = {"exact": lambda: exact(queries, 30), "faiss": lambda: flat(queries, 30)}
    seconds = in_turns(jobs, options.rounds, device)
    print(
        f"exact search (from the disk) over FAISS flat (in memory), 1024 queries in {len(rows)} x {width}, k = 30: "
        f"{ratio(seconds['exact'], seconds['faiss'])}, same rows: {same}"
    )


def _measure_evaluation(options: argparse.Namespace, device: torch.device, folder: Path) -> None:
    """Print the ratio of the time of our evaluation to that of `_other_order`, both on the same features."""
    width, size = 2 * BACKBONES[options.backbone].embedding_dim, options.input_size
    grid, generator = size // PATCH, torch.Generator().manual_seed(1)
    rows = _random(options.bank_rows, width)
    classes = torch.randint(CLASSES, (len(rows),), generator=generator)
    counts = torch.nn.functional.one_hot(classes, CLASSES) * PATCH**2
    bank = Bank.create(folder, BankManifest(width, CLASSES, "float32", (len(rows),), {}))
    bank.write(0, rows, counts.numpy())
    drawn = torch.randint(len(rows), (options.scored, grid**2), generator=generator)
    noise = torch.randn(options.scored, grid**2, width, generator=generator) / width**0.5
    features = normalize(torch.from_numpy(rows)[drawn] + noise, dim=2).to(device)
    truth = torch.randint(CLASSES, (options.scored, grid, grid), generator=generator).byte()
    truth = truth.repeat_interleave(PATCH, dim=1).repeat_interleave(PATCH, dim=2)
    predictor = Predictor(bank, BankSearch(bank, device), 30, 0.02, size, PATCH**2)
    bank_rows, bank_labels = torch.from_numpy(rows).to(device), (counts / PATCH**2).to(device)
    iou: dict[str, list[float]] = {}

    def ours() -> None:
        predictions = predictor(features)
        pairs = zip(truth.numpy(), predictions, strict=True)
        matrix = sum(confusion(mask, prediction, CLASSES, VOID) for mask, prediction in pairs)
        iou["ours"] = segmentation_scores(np.asarray(matrix))["IoU"]

    def other_order() -> None:
        iou["other"] = _other_order(features, bank_rows, bank_labels, truth.to(device), size)

    seconds = in_turns({"ours": ours, "other": other_order}, options.rounds, device)
    same = bool(np.allclose(iou["ours"], iou["other"], atol=1e-3))
    print(
        f"evaluation of {options.scored} images (bank on the disk) over the order of other code (bank in memory), "
        f"{len(rows)} x {width}, {CLASSES} classes: {ratio(seconds['ours'], seconds['other'])}, same IoU: {same}"
    )


def _other_order(
    features: Tensor, bank: Tensor, labels: Tensor, truth: Tensor, size: int, k: int = 30, temperature: float = 0.02
) -> list[float]:
    """Return the IoU of each class, computed in the order of steps of other open-source implementations.

    For each image, compute all similarities, fetch the features of the neighbours, and compute the similarities to the
    neighbours again. Keep the predictions of all pixels until the end.

    features: features of the patches, `[b t f]`. bank, labels: features `[n f]` and class shares `[n c]` of the patches
    in the bank. truth: masks `[b s s]`. size: side of an image in pixels.
    """
    class_maps = []
    for image in features:  # [t d]
        rows = (image @ bank.T).topk(k, dim=1).indices  # [t n] -> [t k]
        attention = torch.softmax(torch.einsum("td,tkd->tk", image, bank[rows]) / temperature, dim=1)
        votes = torch.einsum("tk,tkc->tc", attention, labels[rows])
        maps = votes.T.unflatten(1, (size // PATCH, -1)).unsqueeze(0)
        pixels = interpolate(maps, (size, size), mode="bilinear", align_corners=False)[0]  # [c s s]
        class_maps.append(pixels.argmax(dim=0))
    predictions, truth = torch.stack(class_maps).flatten(), truth.flatten()
    iou = []
    for label in range(labels.shape[1]):
        predicted, true = predictions == label, truth == label
        iou.append(float((predicted & true).sum() / (predicted | true).sum().clamp_min(1)))
    return iou


def _support(width: int, rows: int, device: torch.device) -> Support:
    patches = PatchRows(_random(rows, width))
    return Support(patches, BankSearch(patches, device))


def _random(rows: int, width: int) -> np.ndarray:
    """Return random rows of length 1."""
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(0)), dim=1).numpy()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py segmentation", description=__doc__)
    parser.add_argument("--backbone", default="dino_vits16")
    parser.add_argument("--input-size", type=int, default=512)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--kinds", nargs="*", default=["khatri-rao", "binary"])
    parser.add_argument("--support-rows", type=int, default=4096)
    parser.add_argument("--bank-rows", type=int, default=50_000)
    parser.add_argument("--scored", type=int, default=4, help="number of images in the evaluation")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    return parser
