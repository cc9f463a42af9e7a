"""The stages that `scripts/kill_test.py` kills: a small dataset, and the command line of each stage."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fungi.objectives import OBJECTIVES

EXTRACTION_FLAGS = ("--block-size", "2", "--batch-size", "2", "--device", "cpu")
OBJECTIVE_FLAGS = {
    "simclr": ("--set", "simclr.stride_scale=1", "simclr.negative_samples=5"),
    "deepcluster": ("--set", "deepcluster.prototypes=4"),
    "ibot": ("--set", "ibot.patch_size=4"),
    "mim": ("--set", "mim.patch_size=4"),
}
ROOT, DATA = "ROOT", "DATA"
"""Words in command lines that stand for the folder of the written files and the folder of the data."""
EVALUATION_FLAGS = ("--root", ROOT, "--dataset", "pictures", "--pca-dim", "4", "--device", "cpu")
TWO_FEATURES = ("--features", "embeddings", "kl")
SEGMENTATION_FLAGS = ("--memory-size", "0", "--augmentation-epochs", "1", "--input-size", "32", "--neighbours", "5")
EVALUATION_STAGES = {
    "knn": ("knn", *EVALUATION_FLAGS, *TWO_FEATURES, "--k", "3"),
    "linear": ("linear", *EVALUATION_FLAGS, *TWO_FEATURES, "--max-epochs", "20"),
    "cluster": ("cluster", *EVALUATION_FLAGS, *TWO_FEATURES, "--restarts", "2"),
    "retrieval": ("retrieval", *EVALUATION_FLAGS, *TWO_FEATURES, "--ground-truth", f"{DATA}/truth.json"),
    "analyse": (
        *("analyse", *EVALUATION_FLAGS, *TWO_FEATURES, "--analysis", "cka", "shots", "layers"),
        *("--shot-counts", "1", "2", "--k", "2"),
    ),
    "segment": (
        "segment",
        "--root",
        ROOT,
        "--dataset",
        f"scenes=masks:{DATA}/scenes",
        *SEGMENTATION_FLAGS,
        *EXTRACTION_FLAGS,
    ),
    "report": ("report", "--results", ROOT, "--output", f"{ROOT}/report"),
}
TRAINING_FLAGS = (
    "--arch",
    "vit_micro",
    "--device",
    "cpu",
    "--num-workers",
    "0",
    "--epochs",
    "3",
    "--warmup-epochs",
    "1",
)
TRAINING_STAGES = {
    "pretrain": (
        *(
            "pretrain",
            "--data-path",
            f"{DATA}/pictures/train",
            "--output-dir",
            ROOT,
            *TRAINING_FLAGS,
            "--patch-size",
            "8",
        ),
        *("--global-crops-size", "32", "--local-crops-size", "16", "--local-crops-number", "2", "--out-dim", "32"),
        *("--head-hidden-dim", "24", "--head-bottleneck-dim", "12", "--global-sampling-window-size", "2"),
        *("--local-sampling-window-size", "1", "--batch-size-per-gpu", "4", "--init", "xavier"),
        *("--save-minutes", "0.001", "--saveckp-freq", "1"),
    ),
    "fine-tune": (
        *("fine-tune", "--dataset", "pictures", "--data-dir", DATA, "--output-dir", ROOT, *TRAINING_FLAGS),
        *("--random-init", "--batch-size", "4"),
    ),
}
FEATURES = ("extract", "gradients-kl")
REQUIRED_STAGES = {
    "merge": FEATURES,
    **dict.fromkeys(("knn", "linear", "cluster", "retrieval", "analyse"), FEATURES),
    "report": (*FEATURES, "knn", "cluster", "analyse"),
}
"""Stage -> the stages that have to run before it."""


def make_data(folder: Path, rows: int) -> None:
    """Write a dataset of two classes of noise, scenes with masks of two classes, and a ground truth of retrieval."""
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
    """Return stage -> command line, in which ROOT stands for the folder of the written files.

    A stage follows the stages that it requires. data: folder that `make_data` filled.
    """
    common = ("--root", ROOT, "--dataset", "pictures", "--data-dir", DATA, *EXTRACTION_FLAGS)
    gradients = {
        f"gradients-{name}": ("extract-gradients", *common, "--objective", name, *OBJECTIVE_FLAGS.get(name, ()))
        for name in OBJECTIVES.names()
        if name != "mae"  # the encoder of MAE needs the decoder of MAE, which has to be downloaded
    }
    stages = {
        "extract": ("extract", *common),
        **gradients,
        "merge": ("merge", "--root", ROOT),
        **EVALUATION_STAGES,
        **TRAINING_STAGES,
    }
    return {name: [word.replace(DATA, str(data)) for word in words] for name, words in stages.items()}
