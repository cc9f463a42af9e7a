"""Figures of the report: of real runs, of ablations, and of comparisons of layers and backbones."""

import json
from dataclasses import replace

import h5py
import pytest

from fungi.report import write_report as report
from fungi.report.cells import cells_of, read_results
from fungi.report.gallery import draw_all, figures_of
from fungi.report.tables import make_tables
from fungi.report.write_report import ReportSettings
from fungi.results.ablation_table import AblationTable
from fungi.scoring import analyse, knn_concat
from fungi.scoring.analyse import AnalyseSettings
from fungi.scoring.knn_concat import KnnSettings
from fungi.store.provenance import write_layer_provenance
from tests.evaluation.feature_folder import LAYER, make_folder
from tests.evaluation.test_report import cells, content

PNG_START = b"\x89PNG"


def draw_figures(folder, records, cells, tables):
    """Draw all figures of some results, and return their paths."""
    return draw_all(figures_of(folder, records, cells, tables), 1000)


@pytest.mark.slow
def test_a_report_of_real_runs_has_every_format_and_figure(tmp_path):
    for seed in (0, 1):
        make_folder(tmp_path / f"seed-{seed}", seed=seed, rows={"train": 160, "test": 80})
    roots = (tmp_path / "seed-0", tmp_path / "seed-1")
    knn_concat.run(KnnSettings(root=roots, pca_dim=6, k=5))
    analysis = AnalyseSettings(root=roots, pca_dim=6, k=5, shot_counts=(1, 2, 4, 100))
    analyse.run(analysis)
    outputs = analysis.outputs()
    # The results are CKA, 2 shots and 4 shots. With 1 shot there are fewer rows than neighbours, and no class has 100
    # rows.
    assert len(outputs) == 3
    assert all(path.exists() and analysis.difference(path) == "" for path in outputs)
    assert "--pca-dim 6, not 5" in replace(analysis, pca_dim=5).difference(outputs[0])
    paths = report.run(ReportSettings(results=(tmp_path,), output=tmp_path / "report"))
    assert [path.name for path in paths[:4]] == ["report.html", "report.md", "report.csv", "report.tex"]
    kinds = {path.name.split("_")[0] for path in paths[4:]}
    assert kinds == {"combinations", "shots", "per-class", "cka"}
    assert all(path.read_bytes().startswith(PNG_START) for path in paths[4:])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## knn, 2-shot, profile clean, k 5, PCA 6" in text
    assert "1-shot" not in text  # there are four rows for five neighbours
    assert all(f"figures/{path.name}" in text for path in paths[4:])


@pytest.mark.parametrize(("task", "title"), [("knn", "Nearest neighbours"), ("linear", "Linear probe")])
def test_backbones_are_compared_by_their_best_combinations(task, title, tmp_path, monkeypatch):
    """Check the figure that has the layout of figures 5 and 9 of the paper."""
    scores = {
        "vit-b16": {"embeddings": 0.6, "kl": 0.9, "kl+dino": 0.9, "embeddings+kl": 0.7, "embeddings+kl+dino": 0.65},
        "dino_vitb16": {"embeddings": 0.5, "embeddings+kl": 0.4, "embeddings+kl+dino": 0.45},
        "mae-vit-b16": {"embeddings": 0.2, "embeddings+kl": 0.3, "embeddings+dino": 0.3},
        "vit-b32": {"embeddings": 0.8},
        "vit-s16": {"embeddings+kl": 0.8},
    }
    results = [content(accuracy, backbone=name, dataset="pydocs") | {"task": task} for name, accuracy in scores.items()]
    tables = make_tables(cells(*results))
    (path,) = [path for path in draw_figures(tmp_path, [], [], tables) if path.name.startswith("backbones")]
    assert path.read_bytes().startswith(PNG_START)
    calls = []
    monkeypatch.setattr("fungi.report.gallery.draw_compared_dots", lambda _, **arguments: calls.append(arguments))
    draw_figures(tmp_path, [], [], tables)
    (arguments,) = calls
    embeddings, best = arguments["series"]
    assert arguments["title"].startswith(title)
    assert dict(zip(arguments["groups"], zip(embeddings.y, best.y, best.captions, strict=True), strict=True)) == {
        "DeiT ViT-B/16": (60, 70, "+ KL"),
        "DINO ViT-B/16": (50, 45, "+ KL + DINO"),
        "MAE ViT-B/16": (20, 30, "+ KL"),
    }
    draw_figures(tmp_path, [], [], make_tables(cells(results[0], *results[3:])))
    assert len(calls) == 1, "a single backbone was compared"


def write_ablation(folder, table, rows, columns, **settings):
    """Write the result file of an ablation with two runs.

    The mean of row i is 0.1 i + 0.1, and its standard deviation is 0.1.
    """
    path = folder / f"ablation-{table}" / "pydocs" / "vit-b16.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = AblationTable(table, columns, rows)
    for number, row in enumerate(rows):
        for column in columns:
            values.add(row, column, 0.1 * number)
            values.add(row, column, 0.1 * number + 0.2)
    all_settings = {"dataset": "pydocs", "backbone": "vit-b16", "profile": "clean", **settings}
    path.write_text(
        json.dumps(
            {
                "task": f"ablation-{table}",
                "settings": all_settings,
                "provenance": {"features": []},
                "results": values.results(),
                **values.facts(),
            }
        )
    )
    return path


def test_figures_of_ablations_are_drawn(tmp_path, monkeypatch):
    """Check the figures that have the layouts of figures 8, 10 and 12 of the paper.

    An ablation whose rows are not numbers has a figure only if it has a single column.
    """
    results, calls = tmp_path / "results", []
    write_ablation(results, "layers", ["block 10", "block 9"], ["kl qkv", "kl attn_proj"])
    write_ablation(results, "objectives", ["embeddings", "kl"], ["accuracy"])
    write_ablation(results, "views", ["9 views", "49 views"], ["accuracy", "images/s"])
    write_ablation(results, "bias", ["with", "without"], ["kl", "dino"])
    write_ablation(tmp_path / "other" / "results", "layers", ["block 10", "block 9"], ["kl qkv"], profile="published")
    (results / "damaged.json").write_text('{"title": "x", "results": [], "settings": {}}')
    records = read_results([tmp_path])
    assert [cell for record in records for cell in cells_of(record)] == []
    paths = draw_figures(tmp_path / "figures", records, [], [])
    assert len(set(paths)) == len(paths) == 5
    assert all(path.read_bytes().startswith(PNG_START) for path in paths)

    def record_call(_path, title, **arguments):
        calls.append((title, arguments.get("series", arguments.get("values")), arguments))

    for kind in ("draw_curves", "draw_dots"):
        monkeypatch.setattr(f"fungi.report.ablation_figures.{kind}", record_call)
    draw_figures(tmp_path, records, [], [])
    by_title = {(title, arguments.get("y_axis")): (data, arguments) for title, data, arguments in calls}
    assert len(by_title) == 5
    (kl, _), arguments = by_title["layers: DeiT ViT-B/16, pydocs\nprofile clean", "accuracy, %"]
    assert (kl.name, kl.x, arguments["x_axis"]) == ("kl qkv", [9, 10], "block")
    assert (kl.y, kl.std) == (pytest.approx([20, 10]), pytest.approx([10, 10]))
    (speed,), arguments = by_title["views: DeiT ViT-B/16, pydocs\nprofile clean", "images/s"]
    assert (speed.x, speed.y, arguments["x_axis"]) == ([9, 49], pytest.approx([0.1, 0.2]), "views")
    values, _ = by_title["objectives: DeiT ViT-B/16, pydocs\nprofile clean", None]
    assert values["kl"] == (pytest.approx(20), pytest.approx(10))


def test_layers_are_compared_by_block(tmp_path):
    layout = make_folder(tmp_path, features=("embeddings", "kl"))
    for split in ("train", "test"):
        with h5py.File(layout.gradients("digits", "digits-vit", "kl", split), "a") as file:
            values = file["attn_proj"][:] + 1e-7
            write_layer_provenance(
                file.create_dataset("early", data=values), replace(LAYER, layer="blocks.1.attn.proj")
            )
    contents = analyse.layers(AnalyseSettings(root=(tmp_path,), pca_dim=6, k=5))
    assert [result["settings"]["layer_key"] for result in contents] == ["attn_proj", "early"]
    assert all(list(result["results"]) == ["kl"] for result in contents)
    paths = report.run(ReportSettings(results=(tmp_path,), output=tmp_path / "report", formats=("png",)))
    assert any(path.name.startswith("layers_") for path in paths)


def test_figures_of_different_results_never_overwrite_each_other(tmp_path):
    """Draw figures of results that differ in a single setting: each needs another file name."""
    make_folder(tmp_path, features=("embeddings", "kl"))
    for k in (3, 5):
        knn_concat.run(KnnSettings(root=(tmp_path,), pca_dim=6, k=k))
    for normalize in (True, False):
        analyse.cka(AnalyseSettings(root=(tmp_path,), normalize=normalize))
    records = read_results([tmp_path])
    paths = draw_figures(tmp_path / "figures", records, [], [])
    assert len(paths) == len(set(paths)) == 4
    assert sorted(path.name.split("_")[0] for path in paths) == ["cka", "cka", "per-class", "per-class"]
    cells_of_layers = [
        replace(
            cell,
            layer=f"blocks.{block}.attn.proj",
            protocol=replace(cell.protocol, details=(("k", k), ("layer", block))),
        )
        for record in records
        for cell in cells_of(record)
        if cell.combination == "kl"
        for block in (1, 2)
        for k in (3, 5)
    ]
    layer_figures = draw_figures(tmp_path / "figures", [], cells_of_layers, [])
    assert len(layer_figures) == 2  # a figure for k = 3, and a figure for k = 5
    assert all(len(path.stem) <= 200 for path in layer_figures)  # file systems allow 255 characters with the ending


def test_shots_are_drawn_once_per_seed_for_every_number_of_shots(tmp_path):
    """Analyse two numbers of shots with two seeds of the draws; the flag `--shots` is not set."""
    make_folder(tmp_path, features=("embeddings", "kl"))
    analysis = AnalyseSettings(
        root=(tmp_path,), analysis=("shots",), pca_dim=6, k=3, shot_counts=(2, 4), few_shot_seed=(1, 2)
    )
    contents = analyse.shots(analysis)
    assert [len(result["runs"]) for result in contents] == [2, 2]
    assert all(path.exists() for path in analysis.outputs())


def test_cka_of_pairs_is_averaged_over_runs(tmp_path):
    for seed in (0, 1):
        make_folder(tmp_path / str(seed), seed=seed)
    results = analyse.cka(AnalyseSettings(root=(tmp_path / "0", tmp_path / "1")))["results"]
    assert list(results) == ["embeddings+kl", "embeddings+dino", "kl+dino"]
    assert all(0 < scores["cka"] < 1 and scores["cka-std"] >= 0 for scores in results.values())
