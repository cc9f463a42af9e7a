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
from fungi.results.text import aligned, print_gain_table
from fungi.runtime.cores import usable_cores
from fungi.runtime.log import logger
from fungi.store.layout import EMBEDDINGS, Layout
from fungi.views.plans import PLANS, ViewPlan

DESCRIPTION = """Embeddings and the gradients of KL, DINO and SimCLR for 1,797 handwritten digits, from a small network
that was trained on the digits 0 to 4 alone; then kNN over every combination, with all train rows and five per class.

Finished parts are kept: a second run takes seconds."""

FEATURES = ("embeddings", "kl", "dino", "simclr")
FEWER_PATCHES = ("simclr.stride_scale=4",)
"""25 patches per image. The stride of the paper gives 49 patches of a 224-pixel image, but 81 of a 32-pixel image."""
SPLITS = ("train", "test")
SMALLER_VIEWS = PLANS[1:]
"""Plans of views that are compared with the published plan, for the first seed only."""
MOST_WORKERS = 8  # each needs about 1 GB of memory


def run(settings: DemoSettings) -> None:
    """Extract, evaluate, write the report, and print where the files are."""
    started = perf_counter()
    print(f"== features of seeds {', '.join(map(str, settings.seeds))}", flush=True)
    _extract(settings)
    print("\n== evaluations", flush=True)
    results = {"all train rows": _knn(settings, None), f"{SHOTS} per class": _knn(settings, SHOTS)}
    _other_evaluations(settings)
    (report, *_) = write_report.run(
        write_report.ReportSettings(results=(settings.root,), output=settings.root / "report")
    )
    picture = _draw(settings, results["all train rows"])
    print("\nkNN accuracy (k = 20) on the 540 test images; the network was trained on the digits 0 to 4 alone.\n")
    print_gain_table(results)
    _print_views(settings, results["all train rows"])
    places = {
        "features": f"{settings.root}/seed-*/embeddings, {settings.root}/seed-*/gradients",
        "results": settings.root / "results",
        "report": f"{report}: a page for a browser; kNN, linear probe, clustering, accuracy by shots, similarity",
        "picture": picture,
    }
    print_places(places, started)


def _extract(settings: DemoSettings) -> None:
    """Extract all seeds and splits: side by side on a CPU, one after the other on a GPU.

    With so small a network, a second thread saves no time; a second process does.
    """
    from fungi.runtime.device import choose_device

    jobs = [*_extractions(settings), *_extractions_of_smaller_views(settings)]
    workers = min(len(jobs), usable_cores(), MOST_WORKERS)
    if workers == 1 or choose_device(settings.device).type != "cpu":
        for job in jobs:
            _timed(job)
        return
    print(f"{len(jobs)} runs, {workers} at a time", flush=True)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_work_quietly) as pool:
        running = {pool.submit(_timed, job): job for job in jobs}
        for done in as_completed(running):
            done.result()
            job = running[done]
            print(f"seed {job.seed}, {job.views} views: {job.split[0]} is done", flush=True)


def _timed(job: GradientSettings) -> None:
    """Extract, and write the processor seconds next to the features, unless an earlier run has written them."""
    path, started = _seconds_file(job.root, job.split[0]), process_time()
    extract_gradients.run(job)
    if not path.exists():
        path.write_text(f"{process_time() - started:.1f}")


def _seconds_file(root: Path, split: str) -> Path:
    return root / f"seconds-{split}.txt"


def _work_quietly() -> None:
    """Use one thread, and no progress bars: those of several processes would overwrite each other."""
    import torch

    torch.set_num_threads(1)
    logger.setLevel("WARNING")


def _extractions(settings: DemoSettings) -> list[GradientSettings]:
    """Return a run of the gradient stage for each seed and split, the long ones first."""
    shared = GradientSettings(objective=FEATURES[1:], with_embeddings=True, set=FEWER_PATCHES, device=settings.device)
    return [
        replace(shared, root=root, seed=seed, split=(split,))
        for split in SPLITS
        for seed, root in zip(settings.seeds, settings.roots, strict=True)
    ]


def _extractions_of_smaller_views(settings: DemoSettings) -> list[GradientSettings]:
    """Return the runs of the first seed with views at their own size, each plan in a folder of its own."""
    first = [job for job in _extractions(settings) if job.seed == settings.seeds[0]]
    return [replace(job, root=settings.root / f"{plan}-views", views=plan) for plan in SMALLER_VIEWS for job in first]


def _print_views(settings: DemoSettings, published: dict[str, Any]) -> None:
    """Print a row for each plan of views, for the first seed: forwards, processor seconds and accuracy."""
    from fungi.backbones.base import BACKBONES
    from fungi.backbones.position_embedding import patch_size_of
    from fungi.extraction.gradient_settings import parse_options
    from fungi.objectives.binding import bind
    from fungi.scoring.knn_concat import KnnSettings
    from fungi.scoring.knn_concat import run as evaluate
    from fungi.views.base import forwards_of

    spec, options, name = BACKBONES["digits-vit"], parse_options(FEWER_PATCHES), "+".join(FEATURES)
    patch = patch_size_of(spec.build())
    rows = [["views", "forwards per image", "processor seconds", f"accuracy of {name}, %"]]
    for plan in PLANS:
        root = settings.roots[0] if plan == PLANS[0] else settings.root / f"{plan}-views"
        if plan == PLANS[0]:
            result = published.get("runs", [published])[0]["results"][name]
        else:
            result = evaluate(KnnSettings(root=(root,), device=settings.device))["results"][name]
        fixed: dict[str, Any] = {"embedding_dim": 1, "input_spec": spec.input, "seed": 0}
        bound = [bind(kind, **fixed, options=options.get(kind), plan=ViewPlan(plan, patch)) for kind in FEATURES[1:]]
        seconds = sum(float(_seconds_file(root, split).read_text(encoding="utf-8")) for split in SPLITS)
        forwards = sum(forwards_of(objective.views) for objective in bound)
        rows.append([plan, f"{forwards:.1f}", f"{seconds:.0f}", f"{100 * result['accuracy']:.1f}"])
    print(f"\nViews at their own size (--views), seed {settings.seeds[0]}. More measurements: docs/views.md.\n")
    print(aligned(rows))


def _knn(settings: DemoSettings, shots: int | None) -> dict[str, Any]:
    from fungi.scoring.knn_concat import KnnSettings
    from fungi.scoring.knn_concat import run as evaluate

    return evaluate(KnnSettings(root=settings.roots, shots=shots, device=settings.device))


def _other_evaluations(settings: DemoSettings) -> None:
    """Compute the linear probe, clustering, accuracy by shots, and the similarity of the features (CKA)."""
    from fungi.scoring import analyse, cluster, train_linear_concat_grads

    shared: dict[str, Any] = {"root": settings.roots, "device": settings.device}
    train_linear_concat_grads.run(train_linear_concat_grads.LinearSettings(**shared))
    cluster.run(cluster.ClusterSettings(**shared))
    analyse.run(analyse.AnalyseSettings(**shared, shot_counts=(5, 10, 20, 50)))


def _draw(settings: DemoSettings, result: dict[str, Any]) -> Path:
    """Draw the nearest neighbours of the first test images that the two features classify differently."""
    from fungi.data.base import open_split
    from fungi.report.neighbours import draw_neighbours

    combined = "+".join(FEATURES)
    first = result.get("runs", [result])[0]["results"]
    before, after = (first[name]["predictions"] for name in (FEATURES[0], combined))
    rows = [row for row, (a, b) in enumerate(zip(before, after, strict=True)) if a != b][:6]
    train, test = (open_split("digits", split, Path()) for split in SPLITS)
    path = settings.root / "neighbours.png"
    draw_neighbours(
        path,
        query=test.load,
        candidate=train.load,
        rows=rows or [0],
        neighbours={"embeddings": _nearest(settings, FEATURES[:1]), combined: _nearest(settings, FEATURES)},
        query_labels=test.targets.astype("int64"),
        candidate_labels=train.targets.astype("int64"),
        names=train.class_names,
        title="the first test images that the two features classify differently; a frame and × mark another digit",
    )
    return path


def _nearest(settings: DemoSettings, features: Sequence[str]) -> Any:
    """Return the nearest 20 train rows of each test row, `[q 20]`, from the files of the first seed."""
    import h5py
    import numpy as np
    import torch

    from fungi.search.exact import nearest
    from fungi.search.neighbours import in_memory

    layout = Layout(settings.roots[0])
    joined = {}
    for split in SPLITS:
        blocks = []
        for feature in features:
            with h5py.File(layout.features(feature, "digits", "digits-vit", split)) as file:
                block = file[EMBEDDINGS if feature == EMBEDDINGS else "attn_proj"][:]
            blocks.append(block / np.linalg.norm(block, axis=1, keepdims=True))
        joined[split] = np.concatenate(blocks, axis=1)  # [n f]
    train, test = (torch.from_numpy(joined[split]) for split in SPLITS)
    # Each block has length 1: the rows of largest inner product are the nearest.
    return nearest(in_memory(train), test, 20, "inner-product").rows.numpy()
