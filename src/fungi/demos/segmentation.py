"""`fungi demo segmentation`: segment composed scenes of digits with the nearest neighbours of their patches."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from fungi.demos.runner import DemoSettings, print_places
from fungi.results.result_file import summary_of_runs
from fungi.results.text import print_gain_table
from fungi.segmentation.segment import run as segment
from fungi.segmentation.settings import SegmentSettings
from fungi.settings import setting

DESCRIPTION = """Label patches of test scenes by their nearest neighbours among patches of training scenes. Neighbours
are found with embeddings, and with embeddings and the SimCLR gradient of each patch. Scenes are composed of handwritten
digits and photographs of scikit-learn. The network was trained only on single digits from 0 to 4.

Finished parts are kept, so a second run takes seconds."""

MEMORY_SIZE = 20_480
PICTURE_CLASSES = (1, 2, 3, 4, 6, 8)  # classes of the scenes in the picture: digits 0 to 3, 5 and 7
PALETTE = (
    *("#202020", "#cc6677", "#332288", "#ddcc77", "#117733", "#88ccee"),
    *("#882255", "#44aa99", "#999933", "#aa4499", "#dddddd"),
)
"""Colours of the background and of the digits 0 to 9. Colour-blind people can distinguish them (Tol 2021, "muted")."""


@dataclass(frozen=True, kw_only=True)
class DemoSegmentationSettings(DemoSettings):
    """Settings of the segmentation demo."""

    root: Path = setting(Path("demo-segmentation"), "folder for everything that the demo writes", topic="files")


def run(settings: DemoSegmentationSettings) -> None:
    """Segment the scenes, print the tables and draw the picture."""
    started = perf_counter()
    shared: dict[str, Any] = {"memory_size": MEMORY_SIZE, "device": settings.device, "batch_size": 16}
    settings_of_seeds = [
        SegmentSettings(root=root, seed=seed, **shared)
        for root, seed in zip(settings.roots, settings.seeds, strict=True)
    ]
    results = [segment(settings_of_seed)["results"] for settings_of_seed in settings_of_seeds]
    picture = _draw(settings_of_seeds[0], settings.root / "scenes.png")
    content: dict[str, Any] = {"results": results[0]}
    if len(results) > 1:
        content = {"results": summary_of_runs(results), "runs": results}
    print(f"\nmIoU over 11 classes, {MEMORY_SIZE} patches in the bank, 30 neighbours\n")
    print_gain_table({"digit-scenes": content}, "mIoU")
    print("\nIoU of each class, %, mean of the seeds; the network was trained only on the digits 0 to 4")
    print(f"{'':20}" + "".join(f"{name:>6}" for name in ("ground", *map(str, range(10)))))
    for feature in results[0]:
        mean = np.mean([scores[feature]["IoU"] for scores in results], axis=0)
        print(f"{feature:20}" + "".join(f"{100 * value:6.1f}" for value in mean))
    places = {
        "banks": f"{settings.root}/seed-*/banks",
        "results": f"{settings.root}/seed-*/results",
        "picture": picture,
    }
    print_places(places, started)


def _draw(settings: Any, path: Path) -> Path:
    """Draw a column for each scene: the scene, its true mask, and the predicted masks. Return the file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap

    from fungi.segmentation.evaluation import prepare

    segmentation = prepare(settings)
    assert segmentation.test.mask is not None
    masks = [segmentation.test.mask(row) for row in range(len(segmentation.test))]
    # For each class, the first scene in which no other class has a larger number.
    rows = [next(row for row, mask in enumerate(masks) if mask.max() == label) for label in PICTURE_CLASSES]
    samples = segmentation.reader(segmentation.test.take(rows)).scenes
    scenes = [samples.load(row) for row in range(len(rows))]
    views = segmentation.extractor.views
    batch = views.collate([views.prepare(scene) for scene in scenes])
    images_by_title: dict[str, Any] = {"scene": [scene.image for scene in scenes], "truth": batch["mask"].numpy()}
    for feature in settings.features:
        features, predictor = segmentation.predictor(feature)
        images_by_title[feature] = predictor(features(batch))
    lines, columns = len(images_by_title), len(rows)
    figure, axes = plt.subplots(lines, columns, figsize=(1.6 * columns + 1.4, 1.65 * lines + 0.5))
    colours = ListedColormap(PALETTE)
    for cells, (title, images) in zip(axes, images_by_title.items(), strict=True):
        cells[0].set_ylabel(title, fontsize=9)
        for cell, image in zip(cells, images, strict=True):
            options = {} if title == "scene" else {"cmap": colours, "vmin": 0, "vmax": 10, "interpolation": "nearest"}
            cell.imshow(image, **options)
            cell.set_xticks([])
            cell.set_yticks([])
    _add_legend(figure)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _add_legend(figure: Any) -> None:
    """Add the names and colours of the classes below the pictures."""
    from matplotlib.patches import Patch

    names = ("ground", *map(str, range(10)))
    patches = [Patch(color=colour, label=name) for colour, name in zip(PALETTE, names, strict=True)]
    figure.legend(handles=patches, loc="lower center", ncol=11, frameon=False, fontsize=8)
