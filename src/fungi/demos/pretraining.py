"""`fungi demo-udi`: pretrain a small network, score its tokens, and extract gradients from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fungi.backbones.base import BACKBONES
from fungi.demos.runner import print_places
from fungi.extraction import extract_gradients
from fungi.extraction.gradient_settings import GradientSettings
from fungi.pretraining.udi import pretrain
from fungi.pretraining.udi.settings import PretrainSettings
from fungi.results.text import print_gain_table
from fungi.settings import SEEDS, setting

if TYPE_CHECKING:
    from torch import Tensor

    from fungi.pretraining.transfer.features import Feature

DESCRIPTION = """Pretrain a small vision transformer with UDI on 2,048 generated textures. Compare it with pixels and
with random weights by weighted kNN. Then compare its embeddings with its embeddings and gradients by kNN.

Finished parts are kept, so a second run takes seconds."""

DATASET, BACKBONE = "patterns", "udi-micro"
BANK, NEIGHBOURS = 512, 10
"""Number of images per split, and number of neighbours, for the weighted kNN."""
OBJECTIVES = ("kl", "dino", "simclr")
TOKEN_FEATURES: "tuple[Feature, ...]" = ("cls", "cls+", "concat", "patch_mean")
"""Features for the weighted kNN: the first class token, the second, both concatenated, and the mean of the patches."""
FEWER_PATCHES = ("simclr.stride_scale=2",)
"""9 patches per image, because the images have only 32 x 32 pixels."""


@dataclass(frozen=True, kw_only=True)
class DemoUdiSettings:
    """Settings of the UDI demo: folder, length of the training, seed and device."""

    root: Path = setting(Path("demo-udi"), "folder of everything that the demo writes", topic="files")
    epochs: int = setting(12, "passes over the images; 20 take 5 minutes and score higher", within=(1, 1000))
    seed: int = setting(0, "seed of weights, order and views", within=SEEDS)
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", topic="machine")


def run(settings: DemoUdiSettings) -> dict[str, Any]:
    """Pretrain a network, score it, extract features, and print tables."""
    started = perf_counter()
    training = pretrain_settings(settings)
    print(f"== pretraining: {settings.epochs} epochs on {DATASET}", flush=True)
    pretrain.run(training)
    training_seconds = perf_counter() - started
    print("\n== weighted kNN with the pretrained network", flush=True)
    scores = weighted_knn_scores(training)
    print("\n== gradients of the pretrained network", flush=True)
    results = extract_and_evaluate(settings, training)
    pictures = draw_pictures(settings, training)
    _print_tables(scores, results)
    checkpoint = training.output_dir / "checkpoint.pth"
    places = {
        "checkpoint": f"{checkpoint} (--backbone {BACKBONE} --checkpoint FILE in every stage)",
        "pictures": ", ".join(map(str, pictures)),
        "training": f"{training_seconds:.0f} s",
    }
    print_places(places, started)
    return {"scores": scores, "gains": results}


def pretrain_settings(settings: DemoUdiSettings) -> PretrainSettings:
    """Return settings for a pretraining that takes minutes (spec udi 9.2)."""
    return PretrainSettings(
        dataset=DATASET,
        output_dir=settings.root / "pretraining",
        arch="vit_micro",
        patch_size=4,
        global_crops_size=32,
        local_crops_size=16,
        out_dim=1024,
        head_hidden_dim=256,
        head_bottleneck_dim=64,
        init="xavier",
        global_sampling_window_size=2,
        local_sampling_window_size=2,
        local_crops_number=2,
        local_crops_scale=(0.10, 0.35),
        color_jitter=(0.4, 0.4, 0.2, 0.0),
        blur_radius=(0.1, 1.0),
        lr=0.012,
        warmup_epochs=1,
        momentum_teacher=0.98,
        teacher_temp=0.04,
        drop_path_rate=0.0,
        batch_size_per_gpu=64,
        epochs=settings.epochs,
        num_workers=1,
        seed=settings.seed,
        device=settings.device,
    )


def weighted_knn_scores(training: PretrainSettings) -> dict[str, float]:
    """Return the accuracy of weighted kNN for pixels, for random weights and for the pretrained network."""
    import torch

    from fungi.backbones.loading import Backbone, load_backbone
    from fungi.data.base import Samples, open_split
    from fungi.evaluators.weighted_knn import weighted_knn
    from fungi.pretraining.processes import World
    from fungi.pretraining.transfer.features import encode
    from fungi.pretraining.udi.configuration import learner_options
    from fungi.pretraining.udi.learner import Learner
    from fungi.runtime.device import choose_device
    from fungi.views.pixels import as_pixels

    device = choose_device(training.device)
    splits = [open_split(DATASET, split, training.data_dir).take(range(BANK)) for split in ("train", "test")]

    def score(bank: "Tensor", queries: "Tensor") -> float:
        """Return the accuracy for the train rows `[n d]` as bank and the test rows `[q d]` as queries."""
        targets = [torch.from_numpy(split.targets.astype("int64")) for split in splits]
        return weighted_knn(bank, targets[0], queries, targets[1], [NEIGHBOURS])[NEIGHBOURS]["accuracy"]

    def pixels(split: Samples) -> "Tensor":
        """Return the pixels of each image as a centred row."""
        rows = torch.stack([as_pixels(split.load(row)).flatten().float() for row in range(len(split))])
        return rows - rows.mean(1, keepdim=True)

    scores = {"pixels": score(*map(pixels, splits))}
    learner = Learner(learner_options(training), World(), torch.device("cpu"), torch.float32)
    untrained = learner.teacher.backbone.backbone
    spec = BACKBONES[BACKBONE]
    networks = {
        "random init": Backbone(spec, untrained.eval(), spec.input, "", "initial weights of the training"),
        "teacher": load_backbone(BACKBONE, checkpoint=training.output_dir / "checkpoint.pth"),
    }
    for name, backbone in networks.items():
        (bank, _), (queries, _) = (encode(backbone, split, TOKEN_FEATURES, device) for split in splits)
        scores |= {f"{name} {feature}": score(bank[feature], queries[feature]) for feature in TOKEN_FEATURES}
    return scores


def extract_and_evaluate(settings: DemoUdiSettings, training: PretrainSettings) -> Mapping[str, Any]:
    """Extract features with the pretrained network, and return the kNN result of all combinations."""
    from fungi.scoring.knn_concat import KnnSettings
    from fungi.scoring.knn_concat import run as evaluate

    shared: dict[str, Any] = {"dataset": DATASET, "backbone": BACKBONE, "device": settings.device}
    extract_gradients.run(
        GradientSettings(
            **shared,
            root=settings.root,
            checkpoint=training.output_dir / "checkpoint.pth",
            objective=OBJECTIVES,
            with_embeddings=True,
            set=FEWER_PATCHES,
        )
    )
    return evaluate(KnnSettings(**shared, root=(settings.root,)))


def draw_pictures(settings: DemoUdiSettings, training: PretrainSettings) -> list[Path]:
    """Draw the losses per epoch, and the attention maps of the class tokens for eight test images. Return the files."""
    import math

    import torch

    from fungi.backbones.loading import load_backbone
    from fungi.data.base import open_split
    from fungi.pretraining.transfer.attention_maps import write_overview
    from fungi.report.figures import COLOURS, canvas
    from fungi.views.pixels import as_pixels, normalize

    log = (training.output_dir / "log.txt").read_text(encoding="utf-8")
    epochs = [json.loads(line) for line in log.splitlines()]
    loss_file, attention_file = settings.root / "loss.png", settings.root / "attention.png"
    with canvas(loss_file, 5.0, 3.2) as axes:
        styles = {"loss": "-", "g_cl": "--", "g_mcl": ":", "g_pch": "-.", "entropy": (0, (5, 1, 1, 1, 1, 1))}
        for (name, style), color in zip(styles.items(), COLOURS, strict=False):
            axes.plot([epoch[f"train_{name}"] for epoch in epochs], linestyle=style, color=color, label=name)
        axes.axhline(math.log(training.out_dim), color="0.6", linewidth=0.8)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("epoch")
        axes.set_ylabel("nats (grey line: ln K, uniform predictions)")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    backbone = load_backbone(BACKBONE, checkpoint=training.output_dir / "checkpoint.pth")
    samples = open_split(DATASET, "test", training.data_dir)
    images = [samples.load(row) for row in range(8)]
    with torch.no_grad():
        normalized = [normalize(as_pixels(image)[None], backbone.input.statistics) for image in images]
        write_overview(attention_file, backbone.model, list(zip(images, normalized, strict=True)))
    return [loss_file, attention_file]


def _print_tables(scores: Mapping[str, float], results: Mapping[str, Any]) -> None:
    """Print the accuracies of weighted kNN by network and feature, then the gains of the gradients.

    scores: "NETWORK FEATURE", or `pixels` -> accuracy. results: result of the kNN over all combinations.
    """
    print(f"\nWeighted kNN (k = {NEIGHBOURS}, {BANK} train and {BANK} test images), accuracy in %\n")
    print("| | cls | cls+ | concat | patch mean |\n|---|---|---|---|---|")
    for name in ("random init", "teacher"):
        values = [scores[f"{name} {feature}"] for feature in TOKEN_FEATURES]
        print(f"| {name} | " + " | ".join(f"{100 * value:.1f}" for value in values) + " |")
    print(f"| pixels | {100 * scores['pixels']:.1f} |")
    print("\nkNN (k = 20) over all train rows: embeddings and gradients of the pretrained network\n")
    print_gain_table({"all train rows": results})
