"""Results of segmentation -> cells: mIoU, by the size of the bank or the number of training images."""

from typing import Any

from fungi.profiles import DATA_EFFICIENT, DENSE_PROFILES, FULL
from fungi.report.cells import Cell, Protocol, ResultRecord
from fungi.results.published import PublishedKey, published_value
from fungi.store.layout import EMBEDDINGS

_USUAL = {
    "input_size": 512,
    "search": "exact",
    "storage": "float32",
    "split": "test",
    "seed": 42,
    "normalise_tokens_before_head": False,
    "predict_unscored": True,
    "checkpoint": None,
    "checkpoint_key": "",
    "random_init": False,
    "dtype": "auto",
}
_IN_THE_TABLE = {"dataset", "backbone", "profile", "images", "memory_size", "features"}


def segmentation_cells(record: ResultRecord) -> list[Cell]:
    """The cells of a result file of `fungi segment`; none for other files.

    A published value stands beside results whose settings are the published ones, in either profile (spec dense 5).
    """
    content = record.content
    if content.get("task") != "segmentation":
        return []
    settings, results = content["settings"], content["results"]
    setting = f"{settings['images']} images" if settings.get("images") else f"{settings['memory_size']} patches"
    unusual = _unusual(settings)
    protocol = Protocol("segmentation", setting, settings["profile"], ", ".join(unusual) or "as published")
    baseline = results.get(EMBEDDINGS, {}).get("mIoU")
    cells = []
    for feature, scores in results.items():
        key = PublishedKey("segmentation", setting, settings["backbone"], settings["dataset"], feature)
        cells.append(
            Cell(
                protocol=protocol,
                backbone=settings["backbone"],
                dataset=settings["dataset"],
                combination=feature,
                metric="mIoU",
                value=100 * scores["mIoU"],
                std=100 * scores["mIoU-std"] if "mIoU-std" in scores else None,
                runs=len(content.get("runs", [None])),
                gain=None if baseline is None or feature == EMBEDDINGS else 100 * (scores["mIoU"] - baseline),
                as_published=not unusual,
                published=published_value(key) if not unusual else None,
                layer="",
                warnings=len(content.get("warnings", [])),
            )
        )
    return cells


def _unusual(settings: dict[str, Any]) -> list[str]:
    """Settings that are not the published ones, in words; each sets a protocol apart."""
    numbers = vars(DATA_EFFICIENT if settings.get("images") else FULL)
    usual = _USUAL | vars(DENSE_PROFILES[settings["profile"]]) | numbers
    in_the_table = _IN_THE_TABLE - ({"memory_size"} if settings.get("images") else set())
    shown = {name: value for name, value in settings.items() if name not in in_the_table}
    return [
        f"{name.replace('_', ' ')} {value}" for name, value in sorted(shown.items()) if value != usual.get(name, None)
    ]
