"""What `scripts/kill_test.py` kills: a small dataset, and the command line of every stage over it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fungi.objectives import OBJECTIVES

EXTRACTION = ("--block-size", "2", "--batch-size", "2", "--device", "cpu")
SETTINGS = {
    "simclr": ("--set", "simclr.stride_scale=1", "simclr.negative_samples=5"),
    "deepcluster": ("--set", "deepcluster.prototypes=4"),
    "ibot": ("--set", "ibot.patch_size=4"),
    "mim": ("--set", "mim.patch_size=4"),
}
ROOT, DATA = "ROOT", "DATA"
"""What stands in command lines for the folders of files and of data."""
EVALUATION = ("--root", ROOT, "--dataset", "pictures", "--pca-dim", "4", "--device", "cpu")
TWO = ("--features", "embeddings", "kl")
SCENES = ("--memory-size", "0", "--augmentation-epochs", "1", "--input-size", "32", "--neighbours", "5")
JUDGING = {
    "knn": ("knn", *EVALUATION, *TWO, "--k", "3"),
    "linear": ("linear", *EVALUATION, *TWO, "--max-epochs", "20"),
    "cluster": ("cluster", *EVALUATION, *TWO, "--restarts", "2"),
    "retrieval": ("retrieval", *EVALUATION, *TWO, "--ground-truth", f"{DATA}/truth.json"),
    "analyse": (
        "analyse",
        *EVALUATION,
        *TWO,
        "--analysis",
        "cka",
        "shots",
        "layers",
        "--shot-counts",
        "1",
        "2",
        "--k",
        "2",
    ),
    "segment": ("segment", "--root", ROOT, "--dataset", f"scenes=masks:{DATA}/scenes", *SCENES, *EXTRACTION),
    "report": ("report", "--results", ROOT, "--output", f"{ROOT}/report"),
}
SMALL = ("--arch", "vit_micro", "--device", "cpu", "--num-workers", "0", "--epochs", "3", "--warmup-epochs", "1")
LEARNING = {
    "pretrain": (
        *("pretrain", "--data-path", f"{DATA}/pictures/train", "--output-dir", ROOT, *SMALL, "--patch-size", "8"),
        *("--global-crops-size", "32", "--local-crops-size", "16", "--local-crops-number", "2", "--out-dim", "32"),
        *("--head-hidden-dim", "24", "--head-bottleneck-dim", "12", "--global-sampling-window-size", "2"),
        *("--local-sampling-window-size", "1", "--batch-size-per-gpu", "4", "--init", "xavier"),
        *("--save-minutes", "0.001", "--saveckp-freq", "1"),
    ),
    "fine-tune": (
        *("fine-tune", "--dataset", "pictures", "--data-dir", DATA, "--output-dir", ROOT, *SMALL),
        *("--random-init", "--batch-size", "4"),
    ),
}
FEATURES = ("extract", "gradients-kl")
BUILDS_ON = {
    "merge": FEATURES,
    **dict.fromkeys(("knn", "linear", "cluster", "retrieval", "analyse"), FEATURES),
    "report": (*FEATURES, "knn", "cluster", "analyse"),
}
"""Stage -> those that have to be there before it."""


def make_data(folder: Path, rows: int) -> None:
    """Write a dataset of two classes of noise, scenes of two kinds of pixels, and a ground truth of retrieval."""
    noise = np.random.default_rng(0)
    for split, count in (("train", rows), ("test", rows // 2)):
        for row in range(count):
            path = folder / "pictures" / split / f"class{row % 2}" / f"{row:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = noise.integers(0, 256, (30, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            for kind, content in (("images", pixels), ("masks", pixels[..., 0] // 128)):
                scene = folder / "scenes" / split / kind / path.name
                scene.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(scene)
    truth = [{"easy": [query], "hard": [query + 1], "junk": [query + 2]} for query in range(rows // 2)]
    (folder / "truth.json").write_text(json.dumps(truth))


def commands(data: Path) -> dict[str, list[str]]:
    """Stage -> its command line, in an order in which each finds what it needs; ROOT stands for the folder of files."""
    where = ("--root", ROOT, "--dataset", "pictures", "--data-dir", DATA, *EXTRACTION)
    gradients = {
        f"gradients-{name}": ("extract-gradients", *where, "--objective", name, *SETTINGS.get(name, ()))
        for name in OBJECTIVES.names()
        if name != "mae"  # its encoder has a decoder of its own, and comes from a hub
    }
    stages = {"extract": ("extract", *where), **gradients, "merge": ("merge", "--root", ROOT), **JUDGING, **LEARNING}
    return {name: [word.replace(DATA, str(data)) for word in words] for name, words in stages.items()}
