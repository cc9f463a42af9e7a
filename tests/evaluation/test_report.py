"""Reports: comparison with published values, protocols, missing results, and tables in all formats."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from fungi.backbones.base import BACKBONES
from fungi.combine.protocol import usual_pca_dim
from fungi.errors import FungiError, MissingFilesError
from fungi.report import write_report as report
from fungi.report.cells import ResultRecord, cells_of, mean_cells, read_results, without_duplicates
from fungi.report.facts import Setting
from fungi.report.gallery import per_class_differences
from fungi.report.tables import make_tables, to_csv, to_latex, to_markdown
from fungi.report.write_report import ReportSettings
from fungi.results.published import MEAN, PublishedKey, mean_datasets, published_value
from fungi.scoring import knn_concat
from fungi.scoring.knn_concat import KnnSettings
from tests.evaluation.feature_folder import make_folder


def content(
    accuracy: dict[str, float], *, backbone="vit-b16", dataset="cars", profile="published", layer="", **settings
) -> dict:
    """Return the content of a kNN result file. accuracy: combination -> accuracy."""
    provenance = {"backbone": backbone, "dataset": dataset, "profile": profile}
    origin = {"file": "x.h5", "provenance": provenance} | ({"layer": {"layer": layer}} if layer else {})
    standard = {"k": 20, "pca_dim": 512, "shots": None, "dataset": dataset, "backbone": backbone}
    never_unusual = {"k", "pca_dim", "shots"} | {name for name, value in settings.items() if value == "balanced"}
    return {
        "task": "knn" if settings.get("shots") is None else f"knn-{settings['shots']}shot",
        "settings": standard | settings,
        "unusual": {name: value for name, value in settings.items() if name not in never_unusual},
        "provenance": {"features": [{"train": {"embeddings": origin}}]},
        "results": {name: {"accuracy": value, "mean-per-class-accuracy": value} for name, value in accuracy.items()},
    }


def cells(*contents: dict) -> list:
    """Return the cells of tables for the contents of some result files."""
    return [cell for result in contents for cell in cells_of(ResultRecord(Path("x.json"), result))]


@pytest.mark.parametrize(
    ("key", "value", "table"),
    [
        (PublishedKey("knn", "full", "dinov2_vitb14", MEAN, "embeddings+kl+dino+simclr"), 81.7, "paper-2"),
        (PublishedKey("knn", "5-shot", "dinov2_vitb14", MEAN, "embeddings+kl"), 48.1, "paper-2"),
        (PublishedKey("knn", "full", "vit-b16-augreg-in1k", "cars", "embeddings"), 21.3, "paper-1"),
        (
            PublishedKey("knn", "5-shot", "vit-b16-augreg-in1k", "flowers102", "embeddings+kl+dino+simclr"),
            49.8,
            "paper-1",
        ),
        (PublishedKey("knn", "full", "vit-b16", "pets", "embeddings+kl+dino"), 91.8, "paper-9"),
        (PublishedKey("linear", "full", "dino_vitb16", MEAN, "embeddings"), 81.0, "paper-13"),
        (PublishedKey("retrieval", "H", "dinov2_vitb14", "paris-landmarks", "embeddings"), 77.5, "paper-10"),
    ],
)
def test_published_values_come_from_the_correct_table(key, value, table):
    published = published_value(key)
    assert (published.value, published.table) == (value, table)


def test_a_missing_published_value_is_none():
    assert published_value(PublishedKey("knn", "full", "vit-b16", "imagenet-1k", "embeddings")) is None


def test_a_cell_shows_value_standard_deviation_gain_published_value_and_difference():
    result = content({"embeddings": 0.330, "embeddings+kl+dino+simclr": 0.403})
    result["results"]["embeddings+kl+dino+simclr"]["accuracy-std"] = 0.0031
    text = to_markdown(make_tables(cells(result)))
    assert "| DeiT ViT-B/16 | embeddings+kl+dino+simclr | 40.3 ± 0.3 (+7.3) [39.3, +1.0] | - |" in text
    assert "## knn, full, profile published, k 20, PCA 512" in text


@pytest.mark.parametrize("change", [{"k": 5}, {"pca_dim": 256}, {"normalize": False}, {"test_split": "valid"}])
def test_results_with_another_protocol_have_no_published_value(change):
    (cell,) = cells(content({"embeddings": 0.3}, **change))
    assert cell.published is None
    assert cells(content({"embeddings": 0.3}))[0].published is not None


@pytest.mark.parametrize("sampling", ["balanced", "stratified"])
def test_few_shot_results_have_published_values_only_with_the_published_sampling(sampling):
    """The published code drew texts in proportion to the class sizes (spec text 6.1). It drew the same number of images
    of each class."""
    shots = {"shots": 5, "few_shot_sampling": sampling}
    (text_cell,) = cells(content({"embeddings": 0.2}, backbone="bert-base-uncased", dataset="trec", **shots))
    (image_cell,) = cells(content({"embeddings": 0.3}, backbone="vit-b16-augreg-in1k", **shots))
    assert (text_cell.published is not None) == (sampling == "stratified")
    assert (image_cell.published is not None) == (sampling == "balanced")
    assert ("stratified draw" in str(text_cell.protocol)) == (sampling == "stratified")


def test_gradients_of_another_layer_are_another_protocol_and_have_no_published_value():
    published_layer = BACKBONES["dino_vitb16"].layer
    published, other = (
        cells(content({"kl": 0.5}, backbone="dino_vitb16", layer=layer))[0]
        for layer in (published_layer, "blocks.5.fc")
    )
    assert str(other.protocol).endswith("layer blocks.5.fc")
    assert "layer" not in str(published.protocol)
    assert (published.as_published, other.as_published) == (True, False)


@pytest.mark.parametrize("official", [True, False])
def test_a_linear_probe_without_the_official_validation_rows_has_no_published_value(official):
    result = content({"embeddings": 0.5}, backbone="dino_vitb16", dataset="textures") | {"task": "linear"}
    if official:
        result["provenance"]["features"][0]["valid"] = {}
    assert cells(result)[0].as_published == official


def test_retrieval_uses_the_published_pca_size_for_every_backbone():
    assert (usual_pca_dim("oxford-landmarks", "dino_vits16"), usual_pca_dim("pets", "dino_vits16")) == (512, 384)


def test_different_protocols_never_share_a_table():
    tables = make_tables(
        cells(
            content({"embeddings": 0.3}),
            content({"embeddings": 0.3}, profile="clean"),
            content({"embeddings": 0.3}, k=5),
            content({"embeddings": 0.3}, shots=5),
            content({"embeddings": 0.3}, shots=5, few_shot_seed=[1, 2]),
        )
    )
    assert sorted(str(table.protocol) for table in tables) == [
        "knn, 5-shot drawn, profile published, k 20, PCA 512, draws 1 2",  # drawn with these seeds
        "knn, 5-shot, profile published, k 20, PCA 512",  # the fixed rows of the published protocol
        "knn, full, profile clean, k 20, PCA 512",
        "knn, full, profile published, k 20, PCA 512",
        "knn, full, profile published, k 5, PCA 512",
    ]


def test_the_mean_needs_all_eleven_datasets_and_missing_datasets_are_named():
    all_but_one = [content({"embeddings": 0.5}, dataset=name) for name in mean_datasets()[:-1]]
    assert mean_cells(cells(*all_but_one)) == []
    assert "Missing for DeiT ViT-B/16: flowers102." in to_markdown(make_tables(cells(*all_but_one)))
    complete = [*all_but_one, content({"embeddings": 0.61}, dataset=mean_datasets()[-1])]
    (mean,) = mean_cells(cells(*complete))
    assert mean.value == pytest.approx(51.0)
    assert mean.published.value == 65.3


def test_the_file_with_the_most_runs_is_shown():
    single, three_runs = content({"embeddings": 0.5}), content({"embeddings": 0.4}) | {"runs": [{}, {}, {}]}
    assert [cell.value for cell in without_duplicates(cells(single, three_runs, single))] == [40.0]


def test_the_metric_depends_on_the_dataset():
    result = content({"embeddings": 0.5}, dataset="pets")
    result["results"]["embeddings"]["mean-per-class-accuracy"] = 0.25
    (cell,) = cells(result)
    assert (cell.metric, cell.value) == ("mean-per-class-accuracy", 25.0)


def test_csv_has_a_line_per_cell_and_latex_escapes_names():
    two_cells = cells(content({"embeddings": 0.33, "embeddings+kl": 0.34}, backbone="dino_vitb16"))
    lines = list(csv.DictReader(io.StringIO(to_csv(two_cells))))
    assert [line["combination"] for line in lines] == ["embeddings", "embeddings+kl"]
    assert (lines[1]["value"], lines[1]["gain"]) == ("34.000", "1.000")
    assert r"\begin{tabular}" in to_latex(make_tables(two_cells))
    assert r"my\_net" in to_latex(make_tables(cells(content({"embeddings": 0.3}, backbone="my_net"))))


def test_dataset_and_backbone_of_the_published_code_are_read_from_its_folder_names():
    result = content({"embeddings": 0.3})
    result["provenance"]["features"] = [
        {"train": {"embeddings": {"file": "/x/pets/vit-b32/train.h5", "provenance": None}}}
    ]
    (cell,) = cells(result)
    assert (cell.dataset, cell.backbone, cell.protocol.profile) == ("pets", "vit-b32", "unknown")


def test_per_class_differences_are_recalls_minus_recalls_of_the_embeddings():
    result = content({})
    result["test_targets"] = [0, 0, 1, 1]
    result["results"] = {
        "embeddings": {"predictions": [0, 0, 1, 0]},
        "kl": {"predictions": [0, 1, 1, 1]},
        "embeddings+kl": {"predictions": [0, 0, 1, 1]},
    }
    # Only single gradients are compared with the embeddings, not combinations.
    assert per_class_differences(result) == {"kl": [-0.5, 0.5]}


def test_errors_name_missing_and_damaged_results(tmp_path, caplog):
    with pytest.raises(MissingFilesError, match=r"no result files in .*Run fungi knn"):
        report.run(ReportSettings(results=(tmp_path,)))
    with pytest.raises(FungiError, match=r"--results .* does not exist\. Name result files"):
        ReportSettings(results=(tmp_path / "nowhere",))
    make_folder(tmp_path)
    knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=6, k=5))
    (tmp_path / "results" / "bad.json").write_text("[]")
    report.run(ReportSettings(results=(tmp_path,), output=tmp_path / "report", formats=("csv",)))
    assert "left out of the report: " in caplog.text
    assert "bad.json is not a result file" in caplog.text
    assert "Use a JSON file that an evaluation wrote." in caplog.text


def test_result_files_are_strict_json(tmp_path):
    make_folder(tmp_path)
    knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=6, k=5))
    (path,) = tmp_path.rglob("results/**/*.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert np.isfinite(json.loads(path.read_text())["results"]["kl"]["accuracy"])


def test_results_of_the_published_code_are_in_the_report(tmp_path):
    """Convert results of the published code. A metric is a list with a single value there, and the name of a
    combination is the list of its feature files, separated by semicolons."""
    scores = {"accuracy": [0.25], "mean-per-class-accuracy": [0.2], "predictions": [[1, 2]]}
    result = {
        "args": {"pca_dim": 512},
        "metrics": {"train.h5": scores, "train.h5;kl-train.h5;dino-train.h5": scores | {"accuracy": [0.5]}},
        "test_targets": [1, 1],
    }
    for name in ("vit-b16-augreg-in1k/cars.json", "linear/vit-b16-augreg-in1k/5-shots/cars.json"):
        path = tmp_path / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
    by_task = {record_cells[0].protocol.task: record_cells for record_cells in map(cells_of, read_results([tmp_path]))}
    embeddings, combination = by_task["knn"]
    assert embeddings.published.value == 21.3
    assert (combination.dataset, combination.backbone) == ("cars", "vit-b16-augreg-in1k")
    assert (combination.combination, combination.value) == ("embeddings+kl+dino", 50.0)
    assert combination.gain == 25.0
    assert {cell.protocol.setting for cell in by_task["linear"]} == {Setting("shots", 5)}


@pytest.mark.parametrize(
    ("setting", "text", "words"),
    [
        (Setting("difficulty", "M"), "M", "medium"),
        (Setting("share", 0.1, drawn=True), "10-percent drawn", "10 % of the train rows drawn"),
        (Setting("shots", 5), "5-shot", "5 train rows per class"),
        (Setting("patches", 1024), "1024 patches", "bank of 1024 patches"),
    ],
)
def test_settings_of_every_task_have_a_short_and_a_long_text(setting: Setting, text: str, words: str) -> None:
    assert (str(setting), setting.in_words()) == (text, words)
