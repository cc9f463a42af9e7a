"""Result files -> cells: one number each, with all that has to be known before it may stand beside another."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fungi.data.base import DATASETS
from fungi.errors import FungiError, MissingFilesError
from fungi.report.facts import Setting
from fungi.report.features import identities
from fungi.report.protocol import SEGMENTATION, Protocol, as_published, origin_of, protocol_of, task_of
from fungi.report.uncertainty import LEVEL, Uncertainty, uncertainties
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
    rows: number of scored rows; error: standard error over these rows, in points; p_value: of no difference from the
    embeddings; reduced: whether PCA was applied. Each is None where the result does not tell.
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
    rows: int | None = None
    error: float | None = None
    p_value: float | None = None
    reduced: bool | None = None

    @property
    def within_noise(self) -> bool:
        """Return whether chance alone explains the gain over the embeddings."""
        return self.p_value is not None and self.p_value >= LEVEL


@dataclass(frozen=True)
class ResultRecord:
    """A result file that was read: where it lies, and its content."""

    path: Path
    content: dict[str, Any]

    @property
    def put_aside(self) -> bool:
        """Return whether it made room for results of other features."""
        return PUT_ASIDE in self.path.name

    @property
    def chosen(self) -> bool:
        """Return whether features, components and neighbours were chosen for each run (`fungi knn --choose`)."""
        return bool(self.content["settings"].get("choose"))

    @property
    def choice(self) -> bool:
        """Return whether this is a finished result of `--choose`, of the latest features."""
        return self.chosen and not self.put_aside and "chosen" in self.content["results"]


def read_results(places: Iterable[Path], *, put_aside: bool = False) -> list[ResultRecord]:
    """Return every result file in the folders (`results`, and the original harness's `logs`), or named itself.

    put_aside: with those that made room for results of other features.
    MissingFilesError where there is none. A file that is none of ours is named and left out.
    """
    paths: list[Path] = []
    for place in places:
        folders = ("results", "logs")
        inside = [path for folder in folders for path in sorted(place.rglob(f"{folder}/**/*.json"))]
        paths += [place] if place.is_file() else inside or sorted(place.rglob("*.json"))
    records = []
    for path in dict.fromkeys(paths):
        if PUT_ASIDE in path.name and not put_aside:
            continue
        try:
            records.append(ResultRecord(path, _compact(read_result(path))))
        except FungiError as error:
            logger.warning("left out: %s", error)
    if not records:
        raise MissingFilesError(
            f"no result files in {', '.join(map(str, places))}. Run fungi knn, linear"
            " or retrieval first, or name other folders with --results."
        )
    return records


def _compact(content: dict[str, Any]) -> dict[str, Any]:
    """Return a result with predictions as arrays and without sample ids: thousands of results have to fit in memory."""
    for run in content.get("runs") or [content]:
        for scores in run["results"].values():
            predictions = np.array(scores.get("predictions", []))
            if predictions.ndim == 1 and predictions.dtype.kind == "i" and predictions.min() >= 0:
                scores["predictions"] = predictions.astype(np.min_scalar_type(predictions.max()))
    return {name: value for name, value in content.items() if name != "sample_ids"}


def cells_of(record: ResultRecord) -> list[Cell]:
    """Return the cells of a result file; none for analyses and ablations, which have figures of their own."""
    content = record.content
    task = task_of(content)
    if task in ("cka", ABLATION):
        return []
    metrics: dict[str, Setting | None] = {metric_of(content): None}
    if task == "retrieval":
        metrics = {f"mAP-{letter}": Setting("difficulty", letter) for letter in ("M", "H")}
    origin, identity, cells = origin_of(content), identities(content), []
    shared: dict[str, Any] = {
        "backbone": origin["backbone"],
        "dataset": origin["dataset"],
        "runs": len(content.get("runs", [None])),
        "as_published": as_published(content, origin),
        "layer": origin["layer"],
        "warnings": len(content.get("warnings", [])),
        "put_aside": record.put_aside,
    }
    for metric, setting in metrics.items():
        protocol, uncertain = protocol_of(content, setting), uncertainties(content, metric)
        for combination, scores in content["results"].items():
            if metric in scores:
                key = PublishedKey(
                    protocol.task, str(protocol.setting), origin["backbone"], origin["dataset"], combination
                )
                number = _number(content, metric, combination, uncertain.get(combination))
                published = published_value(key) if shared["as_published"] else None
                cells.append(
                    Cell(protocol=protocol, published=published, identity=identity[combination], **shared, **number)
                )
    return cells


def distinct(cells: Sequence[Cell]) -> list[Cell]:
    """Return one cell for each thing measured: where several files give it, the one of the most runs.

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
        replace(cell, protocol=replace(cell.protocol, details=(*cell.protocol.details, ("features", cell.identity))))
        if alike[_described(cell)] > 1
        else cell
        for cell in best.values()
    ]


def _described(cell: Cell) -> tuple[object, ...]:
    return cell.protocol, cell.backbone, cell.dataset, cell.combination, cell.layer, cell.metric


def mean_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Return the mean over the paper's datasets, for each protocol, backbone and combination that has all of them."""
    grouped: dict[tuple[Protocol, str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        grouped.setdefault((cell.protocol, cell.backbone, cell.combination, cell.layer), {})[cell.dataset] = cell
    wanted = mean_datasets()
    return [
        _mean([found[name] for name in wanted]) for found in grouped.values() if all(name in found for name in wanted)
    ]


def _number(content: dict[str, Any], metric: str, combination: str, uncertainty: Uncertainty | None) -> dict[str, Any]:
    """Return the fields of a cell that its combination and metric decide."""
    results = content["results"]
    scores, baseline = results[combination], results.get(EMBEDDINGS, {}).get(metric)
    std = scores.get(f"{metric}-std")
    first_run = (content.get("runs") or [content])[0].get("results", {}).get(combination, {})
    return {
        "combination": combination,
        "metric": metric,
        "value": 100 * scores[metric],
        "std": None if std is None else 100 * std,
        "gain": None if baseline is None or combination == EMBEDDINGS else 100 * (scores[metric] - baseline),
        "rows": uncertainty and uncertainty.rows,
        "error": uncertainty and 100 * uncertainty.error,
        "p_value": uncertainty and uncertainty.p_value,
        "reduced": first_run.get("pca", {}).get("applied"),
    }


def metric_of(content: dict[str, Any]) -> str:
    """Return the metric that the paper reports for the dataset; accuracy for others, and for clustering."""
    dataset, task = origin_of(content)["dataset"], task_of(content)
    if task == SEGMENTATION:
        return "mIoU"
    return DATASETS[dataset].metric if dataset in DATASETS and task != "clustering" else "accuracy"


def _mean(cells: list[Cell]) -> Cell:
    count, first = len(cells), cells[0]
    gains = [cell.gain for cell in cells if cell.gain is not None]
    key = PublishedKey(first.protocol.task, str(first.protocol.setting), first.backbone, MEAN, first.combination)
    return replace(
        first,
        dataset=MEAN,
        metric="metric of each dataset",
        value=sum(cell.value for cell in cells) / count,
        std=None,
        gain=sum(gains) / count if len(gains) == count else None,
        published=published_value(key) if all(cell.as_published for cell in cells) else None,
        warnings=sum(cell.warnings for cell in cells),
        rows=None,
        error=None,
        p_value=None,
        reduced=None,
    )
