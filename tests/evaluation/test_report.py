"""Reports: what is compared with what, what is missing, and that every figure is drawn."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fungi.backbones.base import BACKBONES
from fungi.combine.protocol import usual_pca_dim
from fungi.errors import FungiError, MissingFilesError
from fungi.report import write_report as report
from fungi.report.ablation_table import AblationTable
from fungi.report.cells import ResultRecord, cells_of, distinct, mean_cells, read_results
from fungi.report.gallery import draw_all, per_class_differences
from fungi.report.published import MEAN, PublishedKey, mean_datasets, published_value
from fungi.report.tables import make_tables, to_csv, to_latex, to_markdown
from fungi.report.write_report import ReportSettings
from fungi.scoring import analyse, knn_concat
from fungi.scoring.analyse import AnalyseSettings
from fungi.scoring.knn_concat import KnnSettings
from tests.evaluation.feature_folder import make_folder

PIXELS = b"\x89PNG"


def content(
    accuracy: dict[str, float], *, backbone="vit-b16", dataset="cars", profile="published", layer="", **settings
) -> dict:
    birth = {"backbone": backbone, "dataset": dataset, "profile": profile}
    origin = {"file": "x.h5", "birth": birth} | ({"layer": {"layer": layer}} if layer else {})
    defaults = {"k": 20, "pca_dim": 512, "shots": None, "dataset": dataset, "backbone": backbone}
    return {
        "task": "knn" if settings.get("shots") is None else f"knn-{settings['shots']}shot",
        "settings": defaults | settings,
        "provenance": {"features": [{"train": {"embeddings": origin}}]},
        "results": {name: {"accuracy": value, "mean-per-class-accuracy": value} for name, value in accuracy.items()},
    }


def cells(*contents: dict) -> list:
    return [cell for one in contents for cell in cells_of(ResultRecord(Path("x.json"), one))]


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
def test_published_values_are_found_where_they_are_printed(key, value, table):
    found = published_value(key)
    assert (found.value, found.table) == (value, table)


def test_unprinted_values_have_none():
    assert published_value(PublishedKey("knn", "full", "vit-b16", "imagenet-1k", "embeddings")) is None


def test_a_cell_shows_value_deviation_gain_published_value_and_difference():
    one = content({"embeddings": 0.330, "embeddings+kl+dino+simclr": 0.403})
    one["results"]["embeddings+kl+dino+simclr"]["accuracy-std"] = 0.0031
    text = to_markdown(make_tables(cells(one)))
    assert "| DeiT ViT-B/16 | embeddings+kl+dino+simclr | 40.3 ± 0.3 (+7.3) [39.3, +1.0] | - |" in text
    assert "## knn, full, profile published, k 20, PCA 512" in text


@pytest.mark.parametrize("change", [{"k": 5}, {"pca_dim": 256}, {"normalize": False}, {"test_split": "valid"}])
def test_published_values_never_stand_beside_another_protocol(change):
    (cell,) = cells(content({"embeddings": 0.3}, **change))
    assert cell.published is None
    assert cells(content({"embeddings": 0.3}))[0].published is not None


@pytest.mark.parametrize("sampling", ["balanced", "stratified"])
def test_published_few_shot_values_stand_beside_the_published_kind_of_draw(sampling):
    """Texts were drawn in proportion to the classes (spec text 6.1), pictures equally from each."""
    shots = {"shots": 5, "few_shot_sampling": sampling}
    text = content({"embeddings": 0.2}, backbone="bert-base-uncased", dataset="trec", **shots)
    picture = content({"embeddings": 0.3}, backbone="vit-b16-augreg-in1k", **shots)
    assert (cells(text)[0].published is not None) == (sampling == "stratified")
    assert (cells(picture)[0].published is not None) == (sampling == "balanced")
    assert ("stratified draw" in str(cells(text)[0].protocol)) == (sampling == "stratified")


def test_gradients_of_another_layer_are_another_protocol_and_have_no_published_value():
    own = BACKBONES["dino_vitb16"].layer
    of = {layer: cells(content({"kl": 0.5}, backbone="dino_vitb16", layer=layer))[0] for layer in (own, "blocks.5.fc")}
    assert str(of["blocks.5.fc"].protocol).endswith("layer blocks.5.fc")
    assert "layer" not in str(of[own].protocol)
    assert (of[own].as_published, of["blocks.5.fc"].as_published) == (True, False)


@pytest.mark.parametrize("official", [True, False])
def test_a_linear_probe_without_the_official_validation_rows_has_no_published_value(official):
    one = content({"embeddings": 0.5}, backbone="dino_vitb16", dataset="textures") | {"task": "linear"}
    if official:
        one["provenance"]["features"][0]["valid"] = {}
    assert cells(one)[0].as_published == official


def test_retrieval_is_reduced_as_published_whatever_the_backbone():
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
        "knn, 5-shot drawn, profile published, k 20, PCA 512, draws 1 2",
        "knn, 5-shot, profile published, k 20, PCA 512",
        "knn, full, profile clean, k 20, PCA 512",
        "knn, full, profile published, k 20, PCA 512",
        "knn, full, profile published, k 5, PCA 512",
    ]


def test_the_mean_needs_all_eleven_datasets_and_what_is_missing_is_said():
    all_but_one = [content({"embeddings": 0.5}, dataset=name) for name in mean_datasets()[:-1]]
    assert mean_cells(cells(*all_but_one)) == []
    assert "Missing for DeiT ViT-B/16: flowers102." in to_markdown(make_tables(cells(*all_but_one)))
    complete = [*all_but_one, content({"embeddings": 0.61}, dataset=mean_datasets()[-1])]
    (mean,) = mean_cells(cells(*complete))
    assert mean.value == pytest.approx(51.0)
    assert mean.published.value == 65.3


def test_of_several_files_the_one_of_most_runs_is_shown():
    one, three = content({"embeddings": 0.5}), content({"embeddings": 0.4}) | {"runs": [{}, {}, {}]}
    assert [cell.value for cell in distinct(cells(one, three, one))] == [40.0]


def test_metrics_are_those_of_the_datasets():
    one = content({"embeddings": 0.5}, dataset="pets")
    one["results"]["embeddings"]["mean-per-class-accuracy"] = 0.25
    (cell,) = cells(one)
    assert (cell.metric, cell.value) == ("mean-per-class-accuracy", 25.0)


def test_csv_has_one_line_per_cell_and_latex_escapes():
    found = cells(content({"embeddings": 0.33, "embeddings+kl": 0.34}, backbone="dino_vitb16"))
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [line["combination"] for line in lines] == ["embeddings", "embeddings+kl"]
    assert (lines[1]["value"], lines[1]["gain"]) == ("34.000", "1.000")
    assert r"\begin{tabular}" in to_latex(make_tables(found))
    assert r"my\_net" in to_latex(make_tables(cells(content({"embeddings": 0.3}, backbone="my_net"))))


def test_files_of_the_original_harness_are_named_after_their_folders():
    one = content({"embeddings": 0.3})
    one["provenance"]["features"] = [{"train": {"embeddings": {"file": "/x/pets/vit-b32/train.h5", "birth": None}}}]
    (cell,) = cells(one)
    assert (cell.dataset, cell.backbone, cell.protocol.profile) == ("pets", "vit-b32", "unknown")


def test_per_class_differences_are_recalls_against_those_of_the_embeddings():
    one = content({})
    one["test_targets"] = [0, 0, 1, 1]
    one["results"] = {
        "embeddings": {"predictions": [0, 0, 1, 0]},
        "kl": {"predictions": [0, 1, 1, 1]},
        "embeddings+kl": {"predictions": [0, 0, 1, 1]},
    }
    assert per_class_differences(one) == {"kl": [-0.5, 0.5]}


@pytest.mark.slow
def test_a_report_of_real_runs_holds_every_format_and_figure(tmp_path):
    for seed in (0, 1):
        make_folder(tmp_path / f"seed-{seed}", seed=seed, rows={"train": 160, "test": 80})
    roots = (tmp_path / "seed-0", tmp_path / "seed-1")
    knn_concat.run(KnnSettings(root=roots, pca_dim=6, k=5))
    analysis = AnalyseSettings(root=roots, pca_dim=6, k=5, shot_counts=(1, 2, 4, 100))
    analyse.run(analysis)
    made = analysis.outputs()
    assert len(made) == 3  # CKA, 2 and 4 shots: four classes have too few neighbours with 1, and no hundred rows
    assert all(path.exists() and analysis.difference(path) == "" for path in made)
    assert "--pca-dim 6, not 5" in replace(analysis, pca_dim=5).difference(made[0])
    written = report.run(ReportSettings(results=(tmp_path,), output=tmp_path / "report"))
    assert [path.name for path in written[:4]] == ["report.html", "report.md", "report.csv", "report.tex"]
    kinds = {path.name.split("_")[0] for path in written[4:]}
    assert kinds == {"combinations", "shots", "per-class", "cka"}
    assert all(path.read_bytes().startswith(PIXELS) for path in written[4:])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## knn, 2-shot, profile clean, k 5, PCA 6" in text
    assert "1-shot" not in text  # four rows for five neighbours
    assert all(f"figures/{path.name}" in text for path in written[4:])


@pytest.mark.parametrize(("task", "title"), [("knn", "Nearest neighbours"), ("linear", "Linear probe")])
def test_backbones_are_compared_by_the_best_combination_of_each(task, title, tmp_path, monkeypatch):
    """Figures 5 and 9."""
    scores = {
        "vit-b16": {"embeddings": 0.6, "kl": 0.9, "kl+dino": 0.9, "embeddings+kl": 0.7, "embeddings+kl+dino": 0.65},
        "dino_vitb16": {"embeddings": 0.5, "embeddings+kl": 0.4, "embeddings+kl+dino": 0.45},
        "mae-vit-b16": {"embeddings": 0.2, "embeddings+kl": 0.3, "embeddings+dino": 0.3},
        "vit-b32": {"embeddings": 0.8},
        "vit-s16": {"embeddings+kl": 0.8},
    }
    results = [content(found, backbone=name, dataset="pydocs") | {"task": task} for name, found in scores.items()]
    tables = make_tables(cells(*results))
    (path,) = [path for path in draw_all(tmp_path, [], [], tables) if path.name.startswith("backbones")]
    assert path.read_bytes().startswith(PIXELS)
    drawn = []
    monkeypatch.setattr("fungi.report.gallery.compared_dots", lambda *given: drawn.append(given))
    draw_all(tmp_path, [], [], tables)
    ((_, heading, groups, (alone, best), _),) = drawn
    assert heading.startswith(title)
    assert dict(zip(groups, zip(alone.y, best.y, best.told, strict=True), strict=True)) == {
        "DeiT ViT-B/16": (60, 70, "+ KL"),
        "DINO ViT-B/16": (50, 45, "+ KL + DINO"),
        "MAE ViT-B/16": (20, 30, "+ KL"),
    }
    draw_all(tmp_path, [], [], make_tables(cells(results[0], *results[3:])))
    assert len(drawn) == 1, "one backbone alone is compared to none"


def ablation(folder, table, rows, columns, **settings):
    """The file of an ablation with made-up values."""
    path = folder / f"ablation-{table}" / "pydocs" / "vit-b16.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = AblationTable(table, columns, rows)
    for number, row in enumerate(rows):
        for column in columns:
            made.add(row, column, 0.1 * number)
            made.add(row, column, 0.1 * number + 0.2)
    named = {"dataset": "pydocs", "backbone": "vit-b16", "profile": "clean", **settings}
    path.write_text(json.dumps({"settings": named, **made.content()}))
    return path


def test_figures_of_ablations_are_drawn(tmp_path, monkeypatch):
    """Figures 8, 10 and 12; an ablation of several columns is a table alone."""
    results, drawn = tmp_path / "results", []
    ablation(results, "layers", ["block 10", "block 9"], ["kl qkv", "kl attn_proj"])
    ablation(results, "objectives", ["embeddings", "kl"], ["accuracy"])
    ablation(results, "views", ["9 views", "49 views"], ["accuracy", "images/s"])
    ablation(results, "bias", ["with", "without"], ["kl", "dino"])
    ablation(tmp_path / "other" / "results", "layers", ["block 10", "block 9"], ["kl qkv"], profile="published")
    (results / "torn.json").write_text('{"title": "x", "cells": [{"row": "a"}], "settings": {}}')
    records = read_results([tmp_path])
    assert [cell for record in records for cell in cells_of(record)] == []
    paths = draw_all(tmp_path / "figures", records, [], [])
    assert len(set(paths)) == len(paths) == 5
    assert all(path.read_bytes().startswith(PIXELS) for path in paths)
    for kind in ("curves", "dots"):
        keep = lambda path, title, given, *more, **named: drawn.append((title, given, named))  # noqa: E731
        monkeypatch.setattr(f"fungi.report.ablation_figures.{kind}", keep)
    draw_all(tmp_path, records, [], [])
    by_title = {(title, named.get("y_axis")): (given, named) for title, given, named in drawn}
    assert len(by_title) == 5
    (kl, _), named = by_title["layers: DeiT ViT-B/16, pydocs\nprofile clean", "accuracy, %"]
    assert (kl.name, kl.x, named["x_axis"]) == ("kl qkv", [9, 10], "block")
    assert (kl.y, kl.std) == (pytest.approx([20, 10]), pytest.approx([10, 10]))
    (speed,), named = by_title["views: DeiT ViT-B/16, pydocs\nprofile clean", "images/s"]
    assert (speed.x, speed.y, named["x_axis"]) == ([9, 49], pytest.approx([0.1, 0.2]), "views")
    values, _ = by_title["objectives: DeiT ViT-B/16, pydocs\nprofile clean", None]
    assert values["kl"] == (pytest.approx(20), pytest.approx(10))


def test_layers_are_compared_by_block(tmp_path):
    import h5py

    from fungi.store.birth import write_layer_birth
    from tests.evaluation.feature_folder import LAYER, replace

    layout = make_folder(tmp_path, features=("embeddings", "kl"))
    for split in ("train", "test"):
        with h5py.File(layout.gradients("digits", "digits-vit", "kl", split), "a") as file:
            values = file["attn_proj"][:] + 1e-7
            write_layer_birth(file.create_dataset("early", data=values), replace(LAYER, layer="blocks.1.attn.proj"))
    contents = analyse.layers(AnalyseSettings(root=(tmp_path,), pca_dim=6, k=5))
    assert [one["settings"]["layer_key"] for one in contents] == ["attn_proj", "early"]
    assert all(list(one["results"]) == ["kl"] for one in contents)
    written = report.run(ReportSettings(results=(tmp_path,), output=tmp_path / "report", formats=("png",)))
    assert any(path.name.startswith("layers_") for path in written)


def test_figures_of_unlike_results_never_displace_each_other(tmp_path):
    """Until their names and titles said all that set results apart, the last one drawn was what a figure showed."""
    make_folder(tmp_path, features=("embeddings", "kl"))
    for k in (3, 5):
        knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=6, k=k))
    for normalize in (True, False):
        analyse.cka(AnalyseSettings(root=(tmp_path,), normalize=normalize))
    records = read_results([tmp_path])
    drawn = draw_all(tmp_path / "figures", records, [], [])
    assert len(drawn) == len(set(drawn)) == 4
    assert sorted(path.name.split("_")[0] for path in drawn) == ["cka", "cka", "per-class", "per-class"]
    cells = [
        replace(
            cell, layer=f"blocks.{block}.attn.proj", protocol=replace(cell.protocol, details=f"k {k}, layer {block}")
        )
        for record in records
        for cell in cells_of(record)
        if cell.combination == "kl"
        for block in (1, 2)
        for k in (3, 5)
    ]
    of_layers = draw_all(tmp_path / "figures", [], cells, [])
    assert len(of_layers) == 2
    assert all(len(path.name) <= 204 for path in of_layers)


def test_cka_of_pairs_is_averaged_over_runs(tmp_path):
    for seed in (0, 1):
        make_folder(tmp_path / str(seed), seed=seed)
    found = analyse.cka(AnalyseSettings(root=(tmp_path / "0", tmp_path / "1")))["results"]
    assert list(found) == ["embeddings+kl", "embeddings+dino", "kl+dino"]
    assert all(0 < scores["cka"] < 1 and scores["cka-std"] >= 0 for scores in found.values())


def test_no_results_and_damaged_ones_are_named(tmp_path, caplog):
    with pytest.raises(MissingFilesError, match=r"no result files in .*Run fungi knn"):
        report.run(ReportSettings(results=(tmp_path,)))
    with pytest.raises(FungiError, match=r"--results .* is not there"):
        ReportSettings(results=(tmp_path / "nowhere",))
    make_folder(tmp_path)
    knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=6, k=5))
    (tmp_path / "results" / "bad.json").write_text("[]")
    report.run(ReportSettings(results=(tmp_path,), output=tmp_path / "report", formats=("csv",)))
    assert "left out: " in caplog.text
    assert "bad.json is no result file" in caplog.text


def test_result_files_are_strict_json(tmp_path):
    make_folder(tmp_path)
    knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=6, k=5))
    (path,) = tmp_path.rglob("results/**/*.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert np.isfinite(json.loads(path.read_text())["results"]["kl"]["accuracy"])


def test_results_of_the_original_harness_stand_in_the_report(tmp_path):
    """With the value of one entry per metric, and feature files joined by semicolons."""
    scores = {"accuracy": [0.25], "mean-per-class-accuracy": [0.2], "predictions": [[1, 2]]}
    one = {
        "args": {"pca_dim": 512},
        "metrics": {"train.h5": scores, "train.h5;kl-train.h5;dino-train.h5": scores | {"accuracy": [0.5]}},
        "test_targets": [1, 1],
    }
    for place in ("vit-b16-augreg-in1k/cars.json", "linear/vit-b16-augreg-in1k/5-shots/cars.json"):
        path = tmp_path / "logs" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
    knn, linear = sorted((c for r in read_results([tmp_path]) for c in cells_of(r)), key=lambda c: c.protocol.task)[
        1::2
    ]
    assert (knn.dataset, knn.backbone, knn.combination, knn.value) == (
        "cars",
        "vit-b16-augreg-in1k",
        "embeddings+kl+dino",
        50.0,
    )
    assert knn.gain == 25.0
    assert (linear.protocol.task, linear.protocol.setting) == ("linear", "5-shot")
    (embeddings,) = [c for c in cells_of(read_results([tmp_path])[1]) if c.combination == "embeddings"]
    assert embeddings.published.value == 21.3
