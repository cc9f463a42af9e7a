"""Read result files into cells. A cell is a score with facts. The facts decide which scores can be compared."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fungi.data.base import DATASETS
from fungi.errors import FungiError, MissingFilesError, counted
from fungi.report.facts import Setting
from fungi.report.features import identities
from fungi.report.protocol import SEGMENTATION, Protocol, has_published_protocol, origin_of, protocol_of, task_of
from fungi.report.uncertainty import LEVEL, Uncertainty, uncertainties
from fungi.results.published import MEAN, Published, PublishedKey, mean_datasets, published_value
from fungi.results.result_file import ABLATION, PREVIOUS, read_result, runs_of
from fungi.runtime.log import logger
from fungi.store.layout import EMBEDDINGS


@dataclass(frozen=True)
class Cell:
    """A score in percent.

    metric: name of the score. layer: path of the target layer; several paths are joined with `+`.
    std: population standard deviation over the runs. runs, warnings: number of runs and of warnings in the file.
    gain: score minus the score of the embeddings in the same file.
    as_published: whether settings and features are those of the paper. published: the value of the paper for a cell
    with `as_published`.
    identity: hash of the settings, weights and data that determine the features.
    is_previous: whether the file was renamed (`.previous-1`) because a later result needed its name.
    rows: number of scored rows; error: standard error over these rows, in points.
    p_value: p-value of the test that the score equals the score of the embeddings. reduced: whether PCA was applied.
    A field is None if the result does not record it.
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
    is_previous: bool = False
    rows: int | None = None
    error: float | None = None
    p_value: float | None = None
    reduced: bool | None = None

    @property
    def within_noise(self) -> bool:
        """Return whether the gain over the embeddings is within noise (p-value of at least `LEVEL`)."""
        return self.p_value is not None and self.p_value >= LEVEL


@dataclass(frozen=True)
class ResultRecord:
    """Path and content of a result file."""

    path: Path
    content: dict[str, Any]

    @property
    def is_previous(self) -> bool:
        """Return whether the file was renamed because a result of other features needed its name."""
        return PREVIOUS in self.path.name

    @property
    def uses_choose(self) -> bool:
        """Return whether the runs chose their features, components and neighbours (`fungi knn --choose`)."""
        return bool(self.content["settings"].get("choose"))

    @property
    def has_choice(self) -> bool:
        """Return whether this is a finished result of `--choose`, with the latest features."""
        return self.uses_choose and not self.is_previous and "chosen" in self.content["results"]


def read_results(places: Iterable[Path], *, include_previous: bool = False) -> list[ResultRecord]:
    """Return the contents of result files.

    places: result files, or folders with a subfolder `results` (or `logs`, the subfolder of the published code).
    include_previous: include files that were renamed because results of other features needed their names.

    Files that are not result files are omitted, with a warning. Raises MissingFilesError if there is no result file.
    """
    paths: list[Path] = []
    for place in places:
        folders = ("results", "logs")
        result_paths = [path for folder in folders for path in sorted(place.rglob(f"{folder}/**/*.json"))]
        paths += [place] if place.is_file() else result_paths or sorted(place.rglob("*.json"))
    records = []
    for path in dict.fromkeys(paths):
        if PREVIOUS in path.name and not include_previous:
            continue
        try:
            records.append(ResultRecord(path, _compact(read_result(path))))
        except FungiError as error:
            logger.warning("left out of the report: %s", error)
    if not records:
        raise MissingFilesError(
            f"no result files in {', '.join(map(str, places))}. Run fungi knn, linear"
            " or retrieval first, or name other folders with --results."
        )
    return records


def _compact(content: dict[str, Any]) -> dict[str, Any]:
    """Return a result with predictions as arrays and without sample ids. Thousands of results then fit in memory."""
    for run in runs_of(content):
        for scores in run["results"].values():
            predictions = np.array(scores.get("predictions", []))
            if predictions.ndim == 1 and predictions.dtype.kind == "i" and predictions.min() >= 0:
                scores["predictions"] = predictions.astype(np.min_scalar_type(predictions.max()))
    return {name: value for name, value in content.items() if name != "sample_ids"}


def cells_of(record: ResultRecord) -> list[Cell]:
    """Return the cells of a result file. CKA and ablations have no cells; they have their own figures."""
    content = record.content
    task = task_of(content)
    if task in ("cka", ABLATION):
        return []
    metrics: dict[str, Setting | None] = {metric_of(content): None}
    if task == "retrieval":
        metrics = {f"mAP-{letter}": Setting("difficulty", letter) for letter in ("M", "H")}
    origin, identity_by_name, cells = origin_of(content), identities(content), []
    shared: dict[str, Any] = {
        "backbone": origin["backbone"],
        "dataset": origin["dataset"],
        "runs": len(content.get("runs", [None])),
        "as_published": has_published_protocol(content, origin),
        "layer": origin["layer"],
        "warnings": len(content.get("warnings", [])),
        "is_previous": record.is_previous,
    }
    for metric, setting in metrics.items():
        protocol, uncertainty_by_name = protocol_of(content, setting), uncertainties(content, metric)
        for combination, scores in content["results"].items():
            if metric in scores:
                key = PublishedKey(
                    protocol.task, str(protocol.setting), origin["backbone"], origin["dataset"], combination
                )
                fields = _score_fields(content, metric, combination, uncertainty_by_name.get(combination))
                published = published_value(key) if shared["as_published"] else None
                identity = identity_by_name[combination]
                cells.append(Cell(protocol=protocol, published=published, identity=identity, **shared, **fields))
    return cells


def without_duplicates(cells: Sequence[Cell]) -> list[Cell]:
    """Return one cell per measurement. If several files contain a measurement, keep the cell with the most runs.

    A cell of a renamed file (`is_previous`) is kept only if no other file has the same features. If cells differ only
    in their features, the hash of the features becomes part of the protocol of each cell.
    """
    best: dict[tuple[object, ...], Cell] = {}
    contradictions = 0
    for cell in cells:
        key = (_description(cell), cell.identity)
        if key in best and cell.runs == best[key].runs and cell.value != best[key].value and not cell.is_previous:
            contradictions += 1
        if key not in best or _priority(cell) > _priority(best[key]):
            best[key] = cell
    if contradictions:
        logger.warning(
            f"several files contain different values for the same measurement: {counted(contradictions, 'time')}"
        )
    counts = Counter(description for description, _ in best)
    return [
        replace(cell, protocol=replace(cell.protocol, details=(*cell.protocol.details, ("features", cell.identity))))
        if counts[_description(cell)] > 1
        else cell
        for cell in best.values()
    ]


def _priority(cell: Cell) -> tuple[bool, int]:
    """Return the priority of a cell among cells of the same measurement: current files first, then more runs."""
    return not cell.is_previous, cell.runs


def _description(cell: Cell) -> tuple[object, ...]:
    """Return everything that names a measurement, except the identity of its features."""
    return cell.protocol, cell.backbone, cell.dataset, cell.combination, cell.layer, cell.metric


def mean_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Return the means over the datasets of the paper. A mean needs the scores of all these datasets.

    There is a mean for each protocol, backbone, combination and layer.
    """
    groups: dict[tuple[Protocol, str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.protocol, cell.backbone, cell.combination, cell.layer), {})[cell.dataset] = cell
    names = mean_datasets()
    complete = [by_dataset for by_dataset in groups.values() if all(name in by_dataset for name in names)]
    return [_mean([by_dataset[name] for name in names]) for by_dataset in complete]


def _score_fields(
    content: dict[str, Any], metric: str, combination: str, uncertainty: Uncertainty | None
) -> dict[str, Any]:
    """Return the fields of a cell that depend on its combination and metric."""
    results = content["results"]
    scores, baseline = results[combination], results.get(EMBEDDINGS, {}).get(metric)
    std = scores.get(f"{metric}-std")
    pca_of_first_run = runs_of(content)[0].get("results", {}).get(combination, {}).get("pca", {})
    return {
        "combination": combination,
        "metric": metric,
        "value": 100 * scores[metric],
        "std": None if std is None else 100 * std,
        "gain": None if baseline is None or combination == EMBEDDINGS else 100 * (scores[metric] - baseline),
        "rows": None if uncertainty is None else uncertainty.rows,
        "error": None if uncertainty is None else 100 * uncertainty.error,
        "p_value": None if uncertainty is None else uncertainty.p_value,
        "reduced": pca_of_first_run.get("applied"),
    }


def metric_of(content: dict[str, Any]) -> str:
    """Return the metric that the paper reports for the dataset; accuracy for other datasets and for clustering."""
    dataset, task = origin_of(content)["dataset"], task_of(content)
    if task == SEGMENTATION:
        return "mIoU"
    return DATASETS[dataset].metric if dataset in DATASETS and task != "clustering" else "accuracy"


def _mean(cells: list[Cell]) -> Cell:
    """Return the cell of the mean over datasets. A mean has no uncertainty, because each dataset has its own rows."""
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
