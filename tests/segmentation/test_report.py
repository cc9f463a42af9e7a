"""The report compares segmentation results with published values only if the settings are the published ones."""

import json
from pathlib import Path

import pytest

from fungi.report.cells import ResultRecord, cells_of, read_results
from fungi.report.write_report import ReportSettings
from fungi.report.write_report import run as write_report
from fungi.segmentation.settings import SegmentSettings


def content(value: float = 0.5, **flags) -> dict:
    """Return the content of a result file. value: mIoU of the embeddings."""
    settings = SegmentSettings(**{"dataset": "pascal-voc", "backbone": "dino_vitb16", **flags})
    results = {
        name: {"mIoU": value + gain, "IoU": [value] * 21}
        for name, gain in (("embeddings", 0), ("embeddings+simclr", 0.1))
    }
    return {
        "task": "segmentation",
        "settings": settings.identity(),
        "unusual": settings.unusual(),
        "results": results,
        "provenance": {"features": []},
    }


def cells(**flags) -> dict:
    """Return combination -> its cell in the report, for a result with these settings."""
    return {cell.combination: cell for cell in cells_of(ResultRecord(Path("x.json"), content(**flags)))}


@pytest.mark.parametrize("profile", ["clean", "published"])
@pytest.mark.parametrize(
    ("flags", "published"),
    [
        ({"memory_size": 102_400}, (44.9, 62.1, "paper-3")),
        ({"memory_size": 10_240_000, "backbone": "dino_vits16"}, (46.6, 58.0, "paper-3")),
        ({"dataset": "ade20k"}, (18.3, 23.5, "paper-7")),
        ({"images": 83}, (32.2, 38.0, "paper-4")),
        ({"images": 316, "dataset": "ade20k", "backbone": "dino_vits16"}, (10.0, 12.3, "paper-4")),
    ],
)
def test_runs_with_the_published_settings_have_published_values(profile, flags, published) -> None:
    by_combination = cells(profile=profile, **flags)
    assert (
        by_combination["embeddings"].published.value,
        by_combination["embeddings+simclr"].published.value,
    ) == published[:2]
    assert by_combination["embeddings"].published.table == published[2]
    assert by_combination["embeddings+simclr"].gain == pytest.approx(10)


@pytest.mark.parametrize(
    "flags",
    [
        {"neighbours": 29},
        {"temperature": 0.1},
        {"augmentation_epochs": 2},
        {"input_size": 448},
        {"search": "faiss"},
        {"projection_kind": "binary"},
        {"storage": "float16"},
        {"std_typo": True},
        {"normalise_tokens_before_head": True},
        {"random_init": True},
        {"seed": 1},
        {"images": 83, "memory_size": 1000},
    ],
)
def test_a_run_with_other_settings_has_another_protocol_and_no_published_values(flags) -> None:
    cell, default_cell = cells(**flags)["embeddings"], cells()["embeddings"]
    assert cell.published is None
    assert cell.protocol != default_cell.protocol
    assert default_cell.published is not None


def test_the_report_has_a_table_for_each_protocol(tmp_path: Path) -> None:
    for name, flags in (("a", {}), ("b", {"seed": 7})):
        path = tmp_path / "results" / name / "pascal-voc" / "dino_vitb16.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content(**flags)))
    assert len([cell for record in read_results([tmp_path]) for cell in cells_of(record)]) == 4
    write_report(ReportSettings(results=(tmp_path,), output=tmp_path / "report", formats=("markdown",)))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "segmentation, 1024000 patches, profile clean, as published" in text
    assert "segmentation, 1024000 patches, profile clean, seed 7" in text
    assert "60.0 (+10.0) [66.1, -6.1]" in text


def test_results_with_different_settings_never_share_a_file() -> None:
    changes = [{}, {"neighbours": 5}, {"seed": 1}, {"images": 10}, {"search": "faiss"}, {"profile": "published"}]
    paths = {SegmentSettings(dataset="pascal-voc", **flags).outputs()[0] for flags in changes}
    assert len(paths) == len(changes)
    # Settings that do not change the scores do not change the path.
    assert SegmentSettings(batch_size=1).outputs() == SegmentSettings(device="cpu").outputs()
