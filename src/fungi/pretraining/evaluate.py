"""`fungi evaluate-encoder`: weighted kNN and linear probe of a vision transformer's tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fungi.errors import FungiError, unknown_name
from fungi.runtime.files import written_whole
from fungi.settings import SEEDS, as_json, setting

DESCRIPTION = """Score a vision transformer's tokens as UDI does: weighted kNN over several k, or a linear probe.

Features: cls, cls+, concat (both), patch_mean. The dataset's train split is the bank, its test (or valid) split is
scored. A published or own checkpoint: --backbone udi-vits16 --checkpoint FILE."""

BACKBONE_OF = {"vit_small": "udi-vits16", "vit_tiny": "udi-vitt16", "vit_base": "udi-vitb16", "vit_micro": "udi-micro"}


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What to score, and how."""

    task: Literal["knn", "linear"] = setting("knn", "knn: weighted neighbours; linear: a probe by SGD")
    dataset: str = setting("patterns", "dataset: a name of `fungi list datasets`, or NAME=folder:PATH")
    data_dir: Path = setting(Path("data"), "folder of the datasets")
    backbone: str = setting("", "backbone: a vision transformer of `fungi list backbones`")
    arch: str = setting("", "in place of --backbone: vit_small, vit_tiny, vit_base, vit_micro")
    checkpoint: Path | None = setting(None, "weights", aliases=("--pretrained-weights", "--pretrained_weights"))
    random_init: bool = setting(False, "random weights, drawn from the seed")
    features: tuple[str, ...] = setting(("cls",), "cls, cls+, concat, patch_mean")
    k: tuple[int, ...] = setting((10, 15, 20, 30, 40, 50, 100, 200), "numbers of neighbours", within=(1, 10**6))
    temperature: float = setting(0.07, "of the votes", within=(1e-4, 100))
    n_last_blocks: int = setting(4, "blocks whose tokens the probe sees", within=(1, 100))
    lr: float = setting(0.02, "rate of the probe per 256 images", within=(0, 1000))
    epochs: int = setting(100, "epochs of the probe", within=(1, 10**5))
    batch_size: int = setting(256, "images at once", within=(1, 65536), aliases=("--batch_size_per_gpu",))
    seed: int = setting(0, "of the probe", within=SEEDS)
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    output: Path | None = setting(None, "JSON file of the results")

    def __post_init__(self) -> None:
        from fungi.pretraining.features import FEATURES

        for feature in self.features:
            if feature not in FEATURES:
                raise unknown_name("feature", feature, FEATURES)
        if self.arch and self.arch not in BACKBONE_OF:
            raise unknown_name("architecture", self.arch, BACKBONE_OF)
        if bool(self.arch) == bool(self.backbone):
            raise FungiError("say which network: --backbone udi-vits16, or --arch vit_small.")

    @property
    def network(self) -> str:
        """The backbone's name."""
        return self.backbone or BACKBONE_OF[self.arch]


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """Scores by feature (and by k), as written to --output."""
    from fungi.backbones.loading import load_backbone
    from fungi.data.base import resolve_dataset
    from fungi.pretraining.features import encode
    from fungi.runtime.device import choose_device

    dataset, device = resolve_dataset(settings.dataset, settings.data_dir), choose_device(settings.device)
    scored = "test" if "test" in dataset.splits else dataset.splits[-1]
    splits = [dataset.open_split(split, settings.data_dir) for split in ("train", scored)]
    backbone = load_backbone(
        settings.network, checkpoint=settings.checkpoint, random_init=settings.random_init, seed=settings.seed
    )
    if not hasattr(backbone.model, "num_prefix_tokens"):
        raise FungiError(f"backbone {settings.network!r} is no vision transformer of timm: its tokens are not known.")
    last = settings.n_last_blocks if settings.task == "linear" else 1
    features: Any = settings.features
    (train, train_targets), (test, test_targets) = (
        encode(backbone, split, features, device, batch_size=min(settings.batch_size, 64), last=last)
        for split in splits
    )
    results = {
        feature: _score(settings, (train[feature], train_targets, test[feature], test_targets))
        for feature in settings.features
    }
    content = {
        "settings": as_json(settings),
        "provenance": {"weights": backbone.weights_source, "weights_hash": backbone.weights_hash},
        "results": results,
    }
    if settings.output:
        with written_whole(settings.output) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1))
    return content


def show(settings: EvaluateSettings, made: dict[str, Any]) -> None:
    """A line per feature and k."""
    for feature, scores in made["results"].items():
        for name, values in scores.items():
            print(f"{feature:<12}{name:<10}" + "  ".join(f"{key} {100 * value:.2f}" for key, value in values.items()))
    if settings.output:
        print(f"wrote {settings.output}")


def _score(settings: EvaluateSettings, rows: tuple[Any, Any, Any, Any]) -> dict[str, dict[str, float]]:
    if settings.task == "linear":
        from fungi.evaluators.linear_sgd import linear_probe

        shared: Any = {"rate": settings.lr, "epochs": settings.epochs, "seed": settings.seed}
        return {"linear": linear_probe(*rows, batch=settings.batch_size, **shared)}
    from fungi.evaluators.weighted_knn import weighted_knn

    fitting = [k for k in settings.k if k <= len(rows[0])] or [max(settings.k)]
    found = weighted_knn(*rows, neighbours=fitting, temperature=settings.temperature)
    return {f"k={k}": scores for k, scores in found.items()}
