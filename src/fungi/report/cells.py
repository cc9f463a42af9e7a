"""Result files -> cells: one number each, with all that has to be known before it may stand beside another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fungi.combine.protocol import usual_pca_dim
from fungi.errors import FungiError, MissingFilesError
from fungi.report.published import MEAN, Published, PublishedKey, mean_datasets, published_value
from fungi.report.result_file import PUT_ASIDE, read_result
from fungi.runtime.log import logger
from fungi.store.layout import EMBEDDINGS

_PUBLISHED_K = 20
_UNKNOWN = "unknown"
_USUAL_ARRAY = "attn_proj"


@dataclass(frozen=True)
class Protocol:
    """How a number came about. Numbers of different protocols are never put into one table."""

    task: str
    setting: str
    profile: str
    details: str

    def __str__(self) -> str:
        return f"{self.task}, {self.setting}, profile {self.profile}, {self.details}"

    @property
    def place(self) -> tuple[object, ...]:
        """Sorting key: all train rows before few shots, few shots by their number."""
        number = self.setting.partition("-")[0]
        return self.task, int(number) if number.isdigit() else 0, self.setting, self.profile, self.details


@dataclass(frozen=True)
class Cell:
    """One number, in percent.

    std: population standard deviation over the runs; gain: over the embeddings alone, of the same file; as_published:
    whether k, PCA and rows are the paper's; published: its value for the same thing, where they are.
    """

    protocol: Protocol
    backbone: str
    dataset: str
    combination: str
    metric: str
    value: float
    std: float | None
    runs: int
    gain: float | None
    as_published: bool
    published: Published | None
    layer: str
    warnings: int


@dataclass(frozen=True)
class ResultRecord:
    """A result file that was read: where it lies, and its content."""

    path: Path
    content: dict[str, Any]


def read_results(places: Iterable[Path]) -> list[ResultRecord]:
    """Every result file in the folders (`results`, and the original harness's `logs`), or named itself.

    MissingFilesError where there is none. A file that is none of ours is named and left out.
    """
    paths: list[Path] = []
    for place in places:
        folders = ("results", "logs")
        inside = [path for folder in folders for path in sorted(place.rglob(f"{folder}/**/*.json"))]
        paths += [place] if place.is_file() else inside or sorted(place.rglob("*.json"))
    found = []
    for path in dict.fromkeys(paths):
        if PUT_ASIDE in path.name:
            continue
        try:
            found.append(ResultRecord(path, read_result(path)))
        except FungiError as error:
            logger.warning("left out: %s", error)
    if not found:
        raise MissingFilesError(
            f"no result files in {', '.join(map(str, places))}. Run knn_concat.py,"
            " train_linear_concat_grads.py or retrieval_eval.py first, or name other folders with --results."
        )
    return found


def cells_of(record: ResultRecord) -> list[Cell]:
    """The cells of a result file; none for analyses, which have figures of their own, and segmentation, which has its
    own protocol (`fungi.report.segmentation_cells`)."""
    content = record.content
    task = content.get("task", "knn").split("-")[0]
    metrics = {"retrieval": {"mAP-M": "M", "mAP-H": "H"}, "cka": {}, "segmentation": {}}.get(task)
    if metrics is None:
        metrics = {_metric_of(content): setting_of(content)}
    return [
        _cell(content, task, setting, metric, combination)
        for metric, setting in metrics.items()
        for combination, scores in content["results"].items()
        if metric in scores
    ]


def distinct(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each thing measured: where several files give it, the one of the most runs."""
    best: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        key = (cell.protocol, cell.backbone, cell.dataset, cell.combination, cell.layer, cell.metric)
        if key not in best or cell.runs > best[key].runs:
            best[key] = cell
    if len(best) < len(cells):
        logger.info("%d values are given by several files: those of the most runs are shown", len(cells) - len(best))
    return list(best.values())


def mean_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The mean over the paper's datasets, for each protocol, backbone and combination that has all of them."""
    grouped: dict[tuple[Protocol, str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        grouped.setdefault((cell.protocol, cell.backbone, cell.combination, cell.layer), {})[cell.dataset] = cell
    wanted = mean_datasets()
    return [
        _mean([found[name] for name in wanted]) for found in grouped.values() if all(name in found for name in wanted)
    ]


def setting_of(content: dict[str, Any]) -> str:
    """`full`, `5-shot`, or `5-shot drawn` where the shots are random draws."""
    shots = content["settings"].get("shots")
    if shots is None:
        return "full"
    return f"{shots}-shot drawn" if content["settings"].get("few_shot_seed") else f"{shots}-shot"


def origin_of(content: dict[str, Any]) -> dict[str, str]:
    """Dataset, backbone, profile and layer, as the feature files' own records say it; else as the settings say."""
    files = [entry for run in content["provenance"]["features"] for split in run.values() for entry in split.values()]
    births = [entry["birth"] for entry in files if entry.get("birth")]
    layers = {entry["layer"]["layer"] for entry in files if entry.get("layer")}
    settings = content["settings"]
    if not births and files:
        # The folders of the original harness: <dataset>/<backbone>/<file>.
        folder = Path(files[0]["file"]).parent
        return {"dataset": folder.parent.name, "backbone": folder.name, "profile": _UNKNOWN, "layer": ""}
    return {
        "dataset": births[0]["dataset"] if births else settings["dataset"],
        "backbone": births[0]["backbone"] if births else settings["backbone"],
        "profile": "+".join(sorted({birth["profile"] for birth in births})) or _UNKNOWN,
        "layer": "+".join(sorted(layers)),
    }


def _cell(content: dict[str, Any], task: str, setting: str, metric: str, combination: str) -> Cell:
    origin, results = origin_of(content), content["results"]
    scores, baseline = results[combination], results.get(EMBEDDINGS, {}).get(metric)
    protocol = Protocol(task, setting, origin["profile"], _details(content, origin))
    std = scores.get(f"{metric}-std")
    as_published = _as_published(content, origin)
    key = PublishedKey(task, setting, origin["backbone"], origin["dataset"], combination)
    return Cell(
        protocol=protocol,
        backbone=origin["backbone"],
        dataset=origin["dataset"],
        combination=combination,
        metric=metric,
        value=100 * scores[metric],
        std=None if std is None else 100 * std,
        runs=len(content.get("runs", [None])),
        gain=None if baseline is None or combination == EMBEDDINGS else 100 * (scores[metric] - baseline),
        as_published=as_published,
        published=published_value(key) if as_published else None,
        layer=origin["layer"],
        warnings=len(content.get("warnings", [])),
    )


def _metric_of(content: dict[str, Any]) -> str:
    from fungi.data.base import DATASETS

    dataset = origin_of(content)["dataset"]
    return DATASETS[dataset].metric if dataset in DATASETS and content["task"] != "clustering" else "accuracy"


def _details(content: dict[str, Any], origin: dict[str, str]) -> str:
    """The settings that set one protocol apart from another, in words."""
    settings = content["settings"]
    other_layer = [] if _is_usual_layer(origin) else [f"layer {origin['layer']}"]
    named = [("k", "k"), ("pca_dim", "PCA"), ("solver", "solver"), ("tolerance", "tolerance")]
    parts = [f"{word} {settings[name]}" for name, word in named if settings.get(name) is not None]
    parts += other_layer
    parts += [f"array {settings['layer_key']}"] if settings.get("layer_key") not in (None, _USUAL_ARRAY) else []
    parts += [f"rows of {settings['test_split']}"] if settings.get("test_split", "test") != "test" else []
    for name in ("normalize", "normalize_embeddings"):
        parts += (
            [f"no {name.replace('_', ' of ').replace('normalize', 'L2 norm')}"] if not settings.get(name, True) else []
        )
    parts += ["cosine after PCA"] if settings.get("renormalise_after_pca") else []
    parts += ["stratified draw"] if _sampling(settings) == "stratified" else []
    if settings.get("shots") and settings.get("few_shot_validation", "published") != "published":
        parts.append(f"lambda by {settings['few_shot_validation']}")
    return ", ".join(parts)


def _sampling(settings: dict[str, Any]) -> str | None:
    """How shots were drawn; None where all train rows are used."""
    return settings.get("few_shot_sampling", "balanced") if settings.get("shots") else None


def _as_published(content: dict[str, Any], origin: dict[str, str]) -> bool:
    """Whether k, PCA, rows and draws are those of the published tables."""
    from fungi.backbones.base import BACKBONES

    settings = content["settings"]
    backbone, dataset = origin["backbone"], origin["dataset"]
    return (
        settings.get("k", _PUBLISHED_K) == _PUBLISHED_K
        and backbone in BACKBONES
        and _sampling(settings) in (None, "stratified" if BACKBONES[backbone].modality == "text" else "balanced")
        and settings["pca_dim"] == usual_pca_dim(dataset, backbone)
        and _is_usual_layer(origin)
        and _validated_as_published(content, dataset)
        and settings.get("normalize", True)
        and settings.get("normalize_embeddings", True)
        and not settings.get("renormalise_after_pca", False)
        and settings.get("test_split", "test") in ("test", "query")
    )


def _is_usual_layer(origin: dict[str, str]) -> bool:
    """Whether gradients are those of the backbone's own layer, as far as the files tell."""
    from fungi.backbones.base import BACKBONES

    known = origin["layer"] and origin["backbone"] in BACKBONES
    spec = BACKBONES[origin["backbone"]] if known else None
    return spec is None or origin["layer"] == spec.layer_path(spec.layer)


def _validated_as_published(content: dict[str, Any], dataset: str) -> bool:
    """Whether a linear probe chose lambda on the official validation split where the dataset has one."""
    from fungi.data.base import DATASETS

    official = dataset in DATASETS and "valid" in DATASETS[dataset].splits
    linear = content.get("task", "").startswith("linear")
    return not (official and linear) or all("valid" in run for run in content["provenance"]["features"])


def _mean(cells: list[Cell]) -> Cell:
    count, first = len(cells), cells[0]
    gains = [cell.gain for cell in cells if cell.gain is not None]
    key = PublishedKey(first.protocol.task, first.protocol.setting, first.backbone, MEAN, first.combination)
    return replace(
        first,
        dataset=MEAN,
        metric="metric of each dataset",
        value=sum(cell.value for cell in cells) / count,
        std=None,
        gain=sum(gains) / count if len(gains) == count else None,
        published=published_value(key) if all(cell.as_published for cell in cells) else None,
        warnings=sum(cell.warnings for cell in cells),
    )
