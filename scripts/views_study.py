"""Accuracy over cost of views at their own size: the study behind `--views native` and `--views budget`.

    python scripts/views_study.py run --dataset digits --backbone digits-vit
    python scripts/views_study.py run --dataset patterns --backbone digits-vit --rows 1024 512
    python scripts/views_study.py run --dataset patterns --backbone efficientnet-lite0 --rows 240 160
    python scripts/views_study.py show --output docs/images/views.png

`run` extracts each setting of views for each seed with `fungi extract-gradients` and scores the features; what is there
already is kept. `show` prints the tables of all that was run, as mean and deviation over seeds, and draws the picture.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import h5py
import numpy as np

from fungi.combine.few_shot import few_shot_rows
from fungi.combine.pca import Reducer, reduced
from fungi.combine.protocol import usual_pca_dim
from fungi.combine.source import ArrayInMemory, FeatureSource

SEEDS = (42, 43, 44)
NEIGHBOURS, FEW_NEIGHBOURS, SHOTS = 20, 5, 5
LAMBDA = 5e-5
PIXELS = ("patch_side", "view_size", "local_size")
"""Options that are sides in pixels."""
SCORES = ("kNN", "5-shot kNN", "linear", "retrieval mAP")


@dataclass(frozen=True)
class Setting:
    """One way to make the views of an objective.

    options: of the objective's views; sizes in them are shares of the input size, brought to the next multiple of the
    backbone's patches.
    """

    name: str
    objective: str
    options: Mapping[str, float]

    def as_flags(self, size: int, patch: int) -> tuple[str, ...]:
        """`("simclr.view_size=112", ...)` for a backbone."""
        flags = []
        for option, value in self.options.items():
            side = min(size, ceil(round(value * size / patch, 6)) * patch) if option in PIXELS else value
            flags.append(f"{self.objective}.{option}={side:g}")
        return tuple(flags)


def patches(per_side: int, side: float, encoded: float = 0.0) -> dict[str, float]:
    """Options of SimCLR's grid: patches along a side, their side, and at what size they are encoded (0: full)."""
    options: dict[str, float] = {"per_side": per_side, "patch_side": side}
    return options | ({"view_size": encoded} if encoded else {})


LOCAL = 96 / 224
SETTINGS = (
    Setting("KL", "kl", {}),
    Setting("9 patches of 1/2, own size", "simclr", patches(3, 1 / 2, 1 / 2)),
    Setting("9 patches of 5/8, own size", "simclr", patches(3, 5 / 8, 5 / 8)),
    Setting("9 patches of 3/4, own size", "simclr", patches(3, 3 / 4, 3 / 4)),
    Setting("2 + 4 crops, local ones own size", "dino", {"local_crops": 4, "local_size": LOCAL}),
    Setting("2 + 10 crops, local ones own size", "dino", {"local_size": LOCAL}),
    Setting("16 patches of 5/8, own size", "simclr", patches(4, 5 / 8, 5 / 8)),
    Setting("25 patches of 1/2, own size", "simclr", patches(5, 1 / 2, 1 / 2)),
    Setting("49 patches of 1/2, own size", "simclr", patches(7, 1 / 2, 1 / 2)),
    Setting("2 + 10 crops, full size", "dino", {}),
    Setting("9 patches of 5/8, full size", "simclr", patches(3, 5 / 8)),
    Setting("49 patches of 1/2, full size", "simclr", patches(7, 1 / 2)),
)
"""The cheapest first, so that a study that is cut short has the most."""
COMBINED = {
    "published": ("KL", "2 + 10 crops, full size", "49 patches of 1/2, full size"),
    "native": ("KL", "2 + 10 crops, local ones own size", "49 patches of 1/2, own size"),
    "25 of 1/2": ("KL", "2 + 10 crops, local ones own size", "25 patches of 1/2, own size"),
    "16 of 5/8": ("KL", "2 + 10 crops, local ones own size", "16 patches of 5/8, own size"),
    "9 of 3/4": ("KL", "2 + 10 crops, local ones own size", "9 patches of 3/4, own size"),
    "9 of 5/8": ("KL", "2 + 10 crops, local ones own size", "9 patches of 5/8, own size"),
    "9 of 5/8, 2 + 4 crops": ("KL", "2 + 4 crops, local ones own size", "9 patches of 5/8, own size"),
    "9 of 1/2, 2 + 4 crops": ("KL", "2 + 4 crops, local ones own size", "9 patches of 1/2, own size"),
}
"""All three objectives together, beside the embeddings."""
REFERENCES = {"simclr": "49 patches of 1/2, full size", "dino": "2 + 10 crops, full size", "all": "published"}


def main() -> int:
    """Run or show."""
    options = _parser().parse_args()
    if options.action == "run":
        run(options)
    else:
        show(options.root, options.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="views_study.py", description=__doc__)
    parser.add_argument("action", choices=("run", "show"))
    parser.add_argument("--root", type=Path, default=Path("views-study"))
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--backbone", default="digits-vit")
    parser.add_argument("--rows", type=int, nargs=2, default=(0, 0), help="first train and test rows; 0 takes all")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--set", nargs="*", default=(), help="further settings of objectives, for all settings")
    parser.add_argument("--output", type=Path, default=Path("views-study/views.png"))
    return parser


def run(options: argparse.Namespace) -> None:
    """Extract and score every setting of every seed, then all objectives together."""
    from fungi.backbones.base import resolve_backbone
    from fungi.backbones.position_embedding import patch_size_of

    spec = resolve_backbone(options.backbone)
    patch = patch_size_of(spec.build())
    folder = options.root / f"{options.dataset}-{options.backbone}"
    dataset = _first_rows(options.dataset, options.rows, folder)
    for setting in SETTINGS:
        for seed in options.seeds:
            _extract(options, dataset, setting, seed, folder, setting.as_flags(spec.input.size, patch))
            _score(folder, seed, setting.objective, [setting])
    by_name = {setting.name: setting for setting in SETTINGS}
    for name, parts in COMBINED.items():
        for seed in options.seeds:
            _score(folder, seed, name, [by_name[part] for part in parts])


def _first_rows(dataset: str, rows: Sequence[int], folder: Path) -> str:
    """Return the dataset, or a folder of the first rows of its splits; these data sets have labels in random order."""
    if not any(rows):
        return dataset
    from fungi.data.base import open_split

    place = folder / "images"
    for split, count in zip(("train", "test"), rows, strict=True):
        samples = open_split(dataset, split, Path("data"))
        for row in range(count):
            path = place / split / f"class-{samples.targets[row]}" / f"{row:05d}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                samples.load(row).save(path)
    return f"{dataset}-part=folder:{place}"


def _place(folder: Path, seed: int, setting: Setting) -> Path:
    return folder / f"seed-{seed}" / setting.name.replace(" ", "-").replace("/", "_")


def _extract(
    options: argparse.Namespace, dataset: str, setting: Setting, seed: int, folder: Path, flags: tuple[str, ...]
) -> None:
    from fungi.extraction import extract_gradients
    from fungi.extraction.gradient_settings import GradientSettings

    place, started = _place(folder, seed, setting), perf_counter()
    if (place / "done.json").exists():
        return
    further = tuple(text for text in options.set if text.startswith(f"{setting.objective}."))
    settings = GradientSettings(
        dataset=dataset,
        backbone=options.backbone,
        objective=(setting.objective,),
        with_embeddings=setting.objective == "kl",
        root=place,
        seed=seed,
        set=flags + further,
        device="cpu",
    )
    extract_gradients.run(settings)
    facts = {"seconds": perf_counter() - started, "forwards": _forwards(options.backbone, setting, flags)}
    (place / "done.json").write_text(json.dumps(facts))


def _forwards(backbone: str, setting: Setting, flags: Sequence[str]) -> float:
    from fungi.backbones.base import resolve_backbone
    from fungi.extraction.gradient_settings import parse_options
    from fungi.objectives.binding import bind
    from fungi.views.base import forwards_of

    given = {"embedding_dim": 1, "input_spec": resolve_backbone(backbone).input, "seed": 0}
    return forwards_of(
        bind(setting.objective, **given, options=parse_options(tuple(flags)).get(setting.objective)).views
    )


def _arrays(place: Path, feature: str, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return features of a split and, of embeddings, their labels."""
    pattern = f"embeddings/*/*/{split}.h5" if feature == "embeddings" else f"gradients/*/*/{feature}-{split}.h5"
    (path,) = place.glob(pattern)
    with h5py.File(path) as file:
        if feature == "embeddings":
            return file["embeddings"][:], file["targets"][:].astype(np.int64)
        return file[next(iter(file))][:], None


def _score(folder: Path, seed: int, name: str, settings: Sequence[Setting]) -> None:
    """Scores of embeddings joined with the objectives of some settings, into a JSON file; of embeddings alone too."""
    label = name if len(settings) > 1 else settings[0].name
    path = folder / "scores" / f"{label.replace(' ', '-').replace('/', '_')}-{seed}.json"
    places = [_place(folder, seed, setting) for setting in settings]
    if path.exists() or not all((place / "done.json").exists() for place in places):
        return
    base, facts = (
        _place(folder, seed, SETTINGS[0]),
        [json.loads((place / "done.json").read_text(encoding="utf-8")) for place in places],
    )
    splits, labels = {}, {}
    for split in ("train", "test"):
        embeddings, labels[split] = _arrays(base, "embeddings", split)
        arrays = {"embeddings": embeddings}
        for setting, place in zip(settings, places, strict=True):
            arrays[setting.objective] = _arrays(place, setting.objective, split)[0]
        splits[split] = {feature: ArrayInMemory(values) for feature, values in arrays.items()}
    dataset, backbone = folder.name.split("-", 1)
    pca = usual_pca_dim(dataset, backbone)
    shares_plain = any(setting.objective == "kl" for setting in settings)
    content = {
        "name": label,
        "kind": "all" if len(settings) > 1 else settings[0].objective,
        "seed": seed,
        "forwards": sum(fact["forwards"] for fact in facts) + (0 if shares_plain else 1),
        "seconds": sum(fact["seconds"] for fact in facts),
        "test_rows": len(labels["test"]),
        "scores": _scores(splits, labels, pca),
        "embeddings": _scores({s: {"embeddings": a["embeddings"]} for s, a in splits.items()}, labels, pca),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    print(f"seed {seed} {label}: {content['forwards']:.1f} forwards, {content['scores']}", flush=True)


def _scores(splits: Mapping[str, Mapping[str, ArrayInMemory]], labels: Mapping[str, Any], pca: int) -> dict[str, float]:
    import torch

    from fungi.evaluators.knn import knn_predictions
    from fungi.evaluators.linear import LabelledRows, fit_classifier
    from fungi.evaluators.logistic import LogisticOptions
    from fungi.search.neighbours import in_memory

    cpu, names = torch.device("cpu"), tuple(splits["train"])

    def features(chosen: np.ndarray | None = None) -> tuple[Any, Any]:
        train = FeatureSource(splits["train"], chosen)
        reduction = Reducer(train, pca).fit(names)
        return reduced(train, reduction, cpu), reduced(FeatureSource(splits["test"]), reduction, cpu)

    train, test = features()
    few = [few_shot_rows(labels["train"], SHOTS, seed) for seed in range(5)]
    shots = []
    for rows in few:
        few_train, few_test = features(rows)
        votes = knn_predictions(in_memory(few_train), labels["train"][rows], few_test, FEW_NEIGHBOURS)
        shots.append(float(np.mean(votes == labels["test"])))
    votes = knn_predictions(in_memory(train), labels["train"], test, NEIGHBOURS)
    classifier = fit_classifier(LabelledRows(train, labels["train"]), LAMBDA, LogisticOptions())
    values = (
        float(np.mean(votes == labels["test"])),
        statistics.fmean(shots),
        classifier.accuracy(LabelledRows(test, labels["test"])),
        _mean_average_precision(train.numpy(), labels["train"], test.numpy(), labels["test"]),
    )
    return dict(zip(SCORES, values, strict=True))


def _mean_average_precision(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """Of ranking the train rows by cosine for each test row; those of its class are relevant."""
    from fungi.evaluators.retrieval import average_precision

    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, test)]
    order = np.argsort(-(units[1] @ units[0].T), axis=1)
    relevant = train_labels[order] == test_labels[:, None]
    return float(np.mean([average_precision(np.flatnonzero(row)) for row in relevant]))


def show(root: Path, output: Path) -> None:
    """Print a table for each dataset and backbone, and draw accuracy over forwards."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(root.glob("*/scores/*.json")):
        groups.setdefault(path.parents[1].name, []).append(json.loads(path.read_text(encoding="utf-8")))
    panels = {name: _summary(contents) for name, contents in groups.items()}
    for name, rows in panels.items():
        seeds, tested = len({c["seed"] for c in groups[name]}), groups[name][0]["test_rows"]
        print(f"\n{name.replace('-', ', ', 1)}, {seeds} seeds, {tested} test rows; percent, mean and deviation\n")
        print(f"| features | forwards | {' | '.join(SCORES)} |\n|---|---:|{'---:|' * len(SCORES)}")
        for row in rows:
            cells = [f"{100 * mean:.1f} ± {100 * deviation:.1f}" for mean, deviation in row["scores"].values()]
            fewer = f" ({row['seeds']} of {seeds} seeds)" if row.get("seeds", seeds) < seeds else ""
            print(f"| {row['name']}{fewer} | {row['forwards']:.1f} | {' | '.join(cells)} |")
    if panels:
        _draw(panels, output)
        print(f"\nwrote {output}")


def _summary(contents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for embeddings alone and one for each setting, by kind and cost."""
    rows = [{"name": "embeddings", "kind": "embeddings", "forwards": 1.0, "scores": _spread(contents, "embeddings")}]
    for name in dict.fromkeys(content["name"] for content in contents):
        same = [content for content in contents if content["name"] == name]
        facts = {key: same[0][key] for key in ("name", "kind", "forwards")}
        rows.append({**facts, "seeds": len(same), "scores": _spread(same, "scores")})
    kinds = ("embeddings", "kl", "dino", "simclr", "all")
    return sorted(rows, key=lambda row: (kinds.index(row["kind"]), row["forwards"]))


def _spread(contents: Sequence[dict[str, Any]], key: str) -> dict[str, tuple[float, float]]:
    """Score -> mean and deviation over seeds."""
    spread = {}
    for score in SCORES:
        values = [content[key][score] for content in contents]
        spread[score] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    return spread


def _draw(panels: Mapping[str, Sequence[dict[str, Any]]], output: Path) -> None:
    """kNN accuracy over forwards, a panel for each dataset and backbone; filled: all forwards at the full size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from fungi.report.figures import COLOURS, MARKERS

    kinds = ("embeddings", "kl", "dino", "simclr", "all")
    words = ("embeddings alone", "+ KL", "+ DINO", "+ SimCLR", "+ KL + DINO + SimCLR")
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.0), squeeze=False)
    for axis, (name, rows) in zip(axes[0], panels.items(), strict=True):
        for kind, word, colour, marker in zip(kinds, words, ("black", *COLOURS), MARKERS, strict=False):
            for row in (row for row in rows if row["kind"] == kind):
                mean, deviation = row["scores"]["kNN"]
                full = row["name"] in REFERENCES.values() or "full size" in row["name"]
                axis.errorbar(
                    row["forwards"],
                    100 * mean,
                    100 * deviation,
                    fmt=marker,
                    color=colour,
                    markerfacecolor=colour if full else "white",
                    capsize=2,
                    label=word,
                )
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
        axis.set_xlabel("forwards per image")
        axis.set_title(name.replace("-", ", ", 1), fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("kNN accuracy, %")
    handles = {}
    for axis in axes[0]:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=len(kinds), fontsize=8, frameon=False)
    figure.suptitle("Filled: all views enlarged to the input size, as published. Open: at their own size.", fontsize=9)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main())
