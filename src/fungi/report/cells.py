"""Result files -> cells: one number each, with all that has to be known before it may stand beside another."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fungi.data.base import DATASETS
from fungi.errors import FungiError, MissingFilesError
from fungi.report.features import entries_of, identity_of
from fungi.report.protocol import Protocol, as_published, details_of, origin_of, setting_of
from fungi.results.published import MEAN, Published, PublishedKey, mean_datasets, published_value
from fungi.results.result_file import ABLATION, PUT_ASIDE, read_result
from fungi.runtime.log import logger
from fungi.store.layout import EMBEDDINGS


@dataclass(frozen=True)
class Cell:
    """One number, in percent.

    std: population standard deviation over the runs; gain: over the embeddings alone, of the same file; as_published:
    whether settings and features are the paper's; published: its value for the same thing, where they are.
    identity: of the features it rests on, however they are told; put_aside: whether the file made room for a later one.
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
    identity: str = ""
    put_aside: bool = False


@dataclass(frozen=True)
class ResultRecord:
    """A result file that was read: where it lies, and its content."""

    path: Path
    content: dict[str, Any]

    @property
    def put_aside(self) -> bool:
        """Whether it made room for results of other features."""
        return PUT_ASIDE in self.path.name

    @property
    def chosen(self) -> bool:
        """Whether features, components and neighbours were chosen for each run (`fungi knn --choose`)."""
        return bool(self.content["settings"].get("choose"))

    @property
    def choice(self) -> bool:
        """Whether it shows such a choice, made to its end, of the latest features."""
        return self.chosen and not self.put_aside and "chosen" in self.content["results"]


def read_results(places: Iterable[Path], *, put_aside: bool = False) -> list[ResultRecord]:
    """Every result file in the folders (`results`, and the original harness's `logs`), or named itself.

    put_aside: with those that made room for results of other features.
    MissingFilesError where there is none. A file that is none of ours is named and left out.
    """
    paths: list[Path] = []
    for place in places:
        folders = ("results", "logs")
        inside = [path for folder in folders for path in sorted(place.rglob(f"{folder}/**/*.json"))]
        paths += [place] if place.is_file() else inside or sorted(place.rglob("*.json"))
    found = []
    for path in dict.fromkeys(paths):
        if PUT_ASIDE in path.name and not put_aside:
            continue
        try:
            found.append(ResultRecord(path, read_result(path)))
        except FungiError as error:
            logger.warning("left out: %s", error)
    if not found:
        raise MissingFilesError(
            f"no result files in {', '.join(map(str, places))}. Run fungi knn, linear"
            " or retrieval first, or name other folders with --results."
        )
    return found


def cells_of(record: ResultRecord) -> list[Cell]:
    """The cells of a result file; none for analyses and ablations, which have figures of their own, nor for
    segmentation, which has its own protocol (`fungi.report.segmentation_cells`)."""
    content = record.content
    task = content.get("task", "knn").split("-")[0]
    metrics = {"retrieval": {"mAP-M": "M", "mAP-H": "H"}, "cka": {}, "segmentation": {}, ABLATION: {}}.get(task)
    if metrics is None:
        metrics = {metric_of(content): setting_of(content)}
    return [
        _cell(record, task, setting, metric, combination)
        for metric, setting in metrics.items()
        for combination, scores in content["results"].items()
        if metric in scores
    ]


def distinct(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each thing measured: where several files give it, the one of the most runs.

    Files that were put aside count where no other has the same features. Cells that the same words describe, though
    their features differ, get the features' hash into their headings.
    """
    best: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        key = (_described(cell), cell.identity)
        if key not in best or (not cell.put_aside, cell.runs) > (not best[key].put_aside, best[key].runs):
            best[key] = cell
    if len(best) < len(cells):
        logger.info("%d values are given by several files: those of the most runs are shown", len(cells) - len(best))
    alike = Counter(described for described, _ in best)
    return [
        replace(cell, protocol=replace(cell.protocol, details=f"{cell.protocol.details}, features {cell.identity}"))
        if alike[_described(cell)] > 1
        else cell
        for cell in best.values()
    ]


def _described(cell: Cell) -> tuple[object, ...]:
    return cell.protocol, cell.backbone, cell.dataset, cell.combination, cell.layer, cell.metric


def mean_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The mean over the paper's datasets, for each protocol, backbone and combination that has all of them."""
    grouped: dict[tuple[Protocol, str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        grouped.setdefault((cell.protocol, cell.backbone, cell.combination, cell.layer), {})[cell.dataset] = cell
    wanted = mean_datasets()
    return [
        _mean([found[name] for name in wanted]) for found in grouped.values() if all(name in found for name in wanted)
    ]


def _cell(record: ResultRecord, task: str, setting: str, metric: str, combination: str) -> Cell:
    content, results = record.content, record.content["results"]
    origin = origin_of(content)
    scores, baseline = results[combination], results.get(EMBEDDINGS, {}).get(metric)
    std, is_as_published = scores.get(f"{metric}-std"), as_published(content, origin)
    key = PublishedKey(task, setting, origin["backbone"], origin["dataset"], combination)
    return Cell(
        protocol=Protocol(task, setting, origin["profile"], details_of(content, origin)),
        backbone=origin["backbone"],
        dataset=origin["dataset"],
        combination=combination,
        metric=metric,
        value=100 * scores[metric],
        std=None if std is None else 100 * std,
        runs=len(content.get("runs", [None])),
        gain=None if baseline is None or combination == EMBEDDINGS else 100 * (scores[metric] - baseline),
        as_published=is_as_published,
        published=published_value(key) if is_as_published else None,
        layer=origin["layer"],
        warnings=len(content.get("warnings", [])),
        identity=identity_of(entries_of(content, combination)),
        put_aside=record.put_aside,
    )


def metric_of(content: dict[str, Any]) -> str:
    """The metric that the paper reports for the dataset; accuracy for others, and for clustering."""
    dataset = origin_of(content)["dataset"]
    return DATASETS[dataset].metric if dataset in DATASETS and content["task"] != "clustering" else "accuracy"


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
