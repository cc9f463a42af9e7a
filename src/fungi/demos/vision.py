"""`fungi demo`: from images to the table of kNN accuracies, with data and a backbone that come with the project."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from fungi.demos.runner import SHOTS, DemoSettings, print_places
from fungi.extraction import extract_gradients
from fungi.extraction.gradient_settings import GradientSettings
from fungi.report import write_report
from fungi.results.result_file import runs_of
from fungi.results.text import aligned, print_gain_table
from fungi.runtime.cores import usable_cores
from fungi.runtime.log import logger
from fungi.store.layout import EMBEDDINGS, Layout
from fungi.views.plans import PLANS, ViewPlan

DESCRIPTION = """Extract embeddings and the gradients of KL, DINO and SimCLR for 1,797 handwritten digits, from a small
network that was trained only on the digits 0 to 4. Then classify by kNN with every combination of these features, with
all train rows and five per class.

Finished parts are kept, so a second run takes seconds."""

FEATURES = ("embeddings", "kl", "dino", "simclr")
FEWER_PATCHES = ("simclr.stride_scale=4",)
"""25 patches per image. The side of a patch is half of the image, and its stride is a sixth of this side, rounded down:
18 of 112 pixels, but 2 of 16 pixels. So an image has 49 patches at 224 pixels, but 81 at 32 pixels."""
SPLITS = ("train", "test")
SMALLER_VIEWS = PLANS[1:]
"""View plans that are compared with the published plan, only for the first seed."""
MOST_WORKERS = 8  # a worker needs about 1 GB of memory
DRAWN_QUERIES = 6
"""Largest number of test images in the picture of neighbours."""


def run(settings: DemoSettings) -> None:
    """Extract, evaluate, write the report, and print tables and the places of the files."""
    started = perf_counter()
    print(f"== features of seeds {', '.join(map(str, settings.seeds))}", flush=True)
    _extract(settings)
    print("\n== evaluations", flush=True)
    results = {"all train rows": _knn(settings, None), f"{SHOTS} per class": _knn(settings, SHOTS)}
    _other_evaluations(settings)
    (report, *_) = write_report.run(
        write_report.ReportSettings(results=(settings.root,), output=settings.root / "report")
    )
    picture = _draw_neighbours(settings, results["all train rows"])
    print("\nkNN accuracy (k = 20) on the 540 test images; the network was trained only on the digits 0 to 4.\n")
    print_gain_table(results)
    _print_view_plans(settings, results["all train rows"])
    places = {
        "features": f"{settings.root}/seed-*/embeddings, {settings.root}/seed-*/gradients",
        "results": settings.root / "results",
        "report": f"{report}: a page for a browser; kNN, linear probe, clustering, accuracy by shots, similarity",
        "picture": picture,
    }
    print_places(places, started)


def _extract(settings: DemoSettings) -> None:
    """Extract the features of all seeds and splits: at the same time on a CPU, one after the other on a GPU.

    The network is so small that a second thread saves no time, but a second process does.
    """
    from fungi.runtime.device import choose_device

    extractions = [*_extractions(settings), *_extractions_of_smaller_views(settings)]
    workers = min(len(extractions), usable_cores(), MOST_WORKERS)
    if workers == 1 or choose_device(settings.device).type != "cpu":
        for extraction in extractions:
            _extract_and_time(extraction)
        return
    print(f"{len(extractions)} runs, {workers} at a time", flush=True)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker) as pool:
        extraction_of = {pool.submit(_extract_and_time, extraction): extraction for extraction in extractions}
        for future in as_completed(extraction_of):
            future.result()
            extraction = extraction_of[future]
            print(f"seed {extraction.seed}, {extraction.views} views: {extraction.split[0]} is done", flush=True)


def _extract_and_time(extraction: GradientSettings) -> None:
    """Extract features, and write the processor seconds next to them, unless an earlier run has written the seconds."""
    path = _seconds_file(extraction.root, extraction.split[0])
    started = process_time()
    extract_gradients.run(extraction)
    if not path.exists():
        path.write_text(f"{process_time() - started:.1f}")


def _seconds_file(root: Path, split: str) -> Path:
    """Return the file with the processor seconds of the extraction of a split."""
    return root / f"seconds-{split}.txt"


def _start_worker() -> None:
    """Use one thread and no progress bars, because the bars of several processes would overwrite each other."""
    import torch

    torch.set_num_threads(1)
    logger.setLevel("WARNING")


def _extractions(settings: DemoSettings) -> list[GradientSettings]:
    """Return the extraction settings of each seed and split. Long extractions come first."""
    shared = GradientSettings(objective=FEATURES[1:], with_embeddings=True, set=FEWER_PATCHES, device=settings.device)
    return [
        replace(shared, root=root, seed=seed, split=(split,))
        for split in SPLITS
        for seed, root in zip(settings.seeds, settings.roots, strict=True)
    ]


def _extractions_of_smaller_views(settings: DemoSettings) -> list[GradientSettings]:
    """Return the extraction settings of the first seed for views at their own size. Each plan has its own folder."""
    extractions = [extraction for extraction in _extractions(settings) if extraction.seed == settings.seeds[0]]
    return [
        replace(extraction, root=settings.root / f"{plan}-views", views=plan)
        for plan in SMALLER_VIEWS
        for extraction in extractions
    ]


def _print_view_plans(settings: DemoSettings, published: dict[str, Any]) -> None:
    """Print a row for each view plan, for the first seed: forwards, processor seconds and accuracy.

    published: result of the published plan.
    """
    from fungi.backbones.base import BACKBONES
    from fungi.backbones.position_embedding import patch_size_of
    from fungi.extraction.gradient_settings import parse_options
    from fungi.objectives.binding import bind
    from fungi.scoring.knn_concat import KnnSettings
    from fungi.scoring.knn_concat import run as evaluate
    from fungi.views.base import forwards_of

    spec, options, combination = BACKBONES["digits-vit"], parse_options(FEWER_PATCHES), "+".join(FEATURES)
    patch_size = patch_size_of(spec.build())
    rows = [["views", "forwards per image", "processor seconds", f"accuracy of {combination}, %"]]
    for plan in PLANS:
        root = settings.roots[0] if plan == PLANS[0] else settings.root / f"{plan}-views"
        if plan == PLANS[0]:
            result = runs_of(published)[0]["results"][combination]
        else:
            result = evaluate(KnnSettings(root=(root,), device=settings.device))["results"][combination]
        # Only the views are used, so the size of the embedding and the seed do not matter.
        arguments: dict[str, Any] = {"embedding_dim": 1, "input_spec": spec.input, "seed": 0}
        view_plan = ViewPlan(plan, patch_size)
        objectives = [bind(name, **arguments, options=options.get(name), plan=view_plan) for name in FEATURES[1:]]
        seconds = sum(float(_seconds_file(root, split).read_text(encoding="utf-8")) for split in SPLITS)
        forwards = sum(forwards_of(objective.views) for objective in objectives)
        rows.append([plan, f"{forwards:.1f}", f"{seconds:.0f}", f"{100 * result['accuracy']:.1f}"])
    print(f"\nViews at their own size (--views), seed {settings.seeds[0]}. More measurements: docs/views.md.\n")
    print(aligned(rows))


def _knn(settings: DemoSettings, shots: int | None) -> dict[str, Any]:
    """Return the kNN result over all seeds. shots: number of train rows per class; None for all rows."""
    from fungi.scoring.knn_concat import KnnSettings
    from fungi.scoring.knn_concat import run as evaluate

    return evaluate(KnnSettings(root=settings.roots, shots=shots, device=settings.device))


def _other_evaluations(settings: DemoSettings) -> None:
    """Compute linear probes, clustering, the accuracy by shots, and the similarity of the features (CKA)."""
    from fungi.scoring import analyse, cluster, train_linear_concat_grads

    shared: dict[str, Any] = {"root": settings.roots, "device": settings.device}
    train_linear_concat_grads.run(train_linear_concat_grads.LinearSettings(**shared))
    cluster.run(cluster.ClusterSettings(**shared))
    analyse.run(analyse.AnalyseSettings(**shared, shot_counts=(5, 10, 20, 50)))


def _draw_neighbours(settings: DemoSettings, result: dict[str, Any]) -> Path:
    """Draw the nearest neighbours of the first test images that embeddings and all features classify differently."""
    from fungi.data.base import open_split
    from fungi.report.neighbours import draw_neighbours

    combination = "+".join(FEATURES)
    first_run = runs_of(result)[0]["results"]
    predictions = zip(first_run[FEATURES[0]]["predictions"], first_run[combination]["predictions"], strict=True)
    rows = [row for row, (with_embeddings, with_all) in enumerate(predictions) if with_embeddings != with_all]
    train, test = (open_split("digits", split, Path()) for split in SPLITS)
    path = settings.root / "neighbours.png"
    draw_neighbours(
        path,
        query_image=test.load,
        candidate_image=train.load,
        rows=rows[:DRAWN_QUERIES] or [0],  # a figure needs at least one row
        neighbours={"embeddings": _nearest(settings, FEATURES[:1]), combination: _nearest(settings, FEATURES)},
        query_labels=test.targets.astype("int64"),
        candidate_labels=train.targets.astype("int64"),
        names=train.class_names,
        title="the first test images that the two features classify differently; a frame and × mark another digit",
    )
    return path


def _nearest(settings: DemoSettings, features: Sequence[str]) -> Any:
    """Return the 20 nearest train rows of each test row, `[q 20]`, from the files of the first seed."""
    import h5py
    import numpy as np
    import torch

    from fungi.search.exact import nearest
    from fungi.search.neighbours import in_memory

    layout = Layout(settings.roots[0])
    combined = {}
    for split in SPLITS:
        blocks = []
        for feature in features:
            with h5py.File(layout.features(feature, "digits", "digits-vit", split)) as file:
                block = file[EMBEDDINGS if feature == EMBEDDINGS else "attn_proj"][:]
            blocks.append(block / np.linalg.norm(block, axis=1, keepdims=True))
        combined[split] = np.concatenate(blocks, axis=1)  # [n f]
    train, test = (torch.from_numpy(combined[split]) for split in SPLITS)
    # All rows have the same norm, so the rows with the largest inner products are the nearest rows.
    return nearest(in_memory(train), test, 20, "inner-product").rows.numpy()
