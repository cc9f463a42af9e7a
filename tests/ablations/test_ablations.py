"""All ablations, with 24 rows of the digits and the backbone of the package."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fungi.ablations.ablate import NAMES, AblateSettings
from fungi.ablations.catalogue import ABLATIONS, nested_combinations
from fungi.ablations.variations import FewerRows, VariationRunner
from fungi.commands import COMMANDS
from fungi.data.base import open_split, resolve_dataset
from fungi.gradients.projection import load_projection
from fungi.results.ablation_table import AblationTable
from fungi.results.published import published_tables

FAST_FLAGS = ("--rows", "24", "--k", "3", "--pca-dim", "8", "--device", "cpu")
FAST_SIMCLR = ("--set", "simclr.negative_samples=4", "simclr.latent_dim=8")

# Ablation -> value of `--objective` and further flags, if the objective is not KL alone.
OBJECTIVES = {
    "views": ("simclr", *FAST_SIMCLR),
    "objectives": ("kl", "deepcluster", "--set", "deepcluster.prototypes=6"),
}
# Ablation -> rows of its table.
EXPECTED_ROWS = {
    "projections": ["embeddings", "embeddings+kl"],
    "pca": ["embeddings", "embeddings+kl"],
    "layers": [f"block {block}" for block in range(4)],
    "bias": ["attn.proj weight only", "attn.proj weight and bias"],
    "qkv": [f"attn.qkv ({part} rows)" for part in ("q", "k", "v", "all")],
    "multi-layer": ["attn.proj", "attn.proj + attn.qkv (v rows)"],
    "views": [f"{count} views" for count in (4, 9, 16, 25, 81)],
    "heads": [f"kl, norm {norm}, projection {head}" for norm in ("no", "yes") for head in ("no", "yes")],
    "objectives": ["embeddings", "kl", "deepcluster"],
    "raw": ["raw gradient", "projected to 768"],
    "throughput": ["embeddings", "embeddings+kl"],
    "times": ["projection of 8 gradients", "fitting PCA", "PCA of the train rows"],
}
ROWS_PER_SPLIT = {"views": 8}  # a row has up to 81 views
"""Ablation -> number of rows per split, if it is not 24."""


# Tables of ablations in the paper and in the author response.
PUBLISHED_TABLES = ["paper-6", "paper-15a", "paper-15b", *(f"rebuttal-{number}" for number in (23, 28, 29, 30, 31, 32))]


def ablate(name: str, root: Path, *options: str) -> int:
    """Run an ablation with few rows, and return the exit status."""
    flags = ["--ablation", name, "--root", str(root), *FAST_FLAGS, "--objective", *OBJECTIVES.get(name, ("kl",))]
    return COMMANDS["ablate"].main([*flags, *options])


def row_counts(root: Path) -> dict[str, int]:
    """Return file and array -> number of rows, for all feature files below a root."""
    rows = {}
    for path in root.rglob("*.h5"):
        with h5py.File(path) as file:
            arrays = {name: array for name, array in file.items() if name != "class_names"}
            rows |= {f"{path.relative_to(root)}:{name}": len(array) for name, array in arrays.items()}
    return rows


def test_all_ablations_are_on_the_command_line() -> None:
    assert set(NAMES) == set(ABLATIONS) == set(EXPECTED_ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_ablation_prints_its_table(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ROWS_PER_SPLIT.get(name, 24)
    assert ablate(name, tmp_path, "--rows", str(rows)) == 0
    output = capsys.readouterr().out
    (path,) = tmp_path.glob(f"results/ablation-{name}-*rows{rows}*/digits/digits-vit.json")
    content = json.loads(path.read_text())
    assert set(row_counts(tmp_path).values()) == {rows}
    assert list(content["results"]) == list(EXPECTED_ROWS[name])
    cells = [cell for row in content["results"].values() for cell in row.values()]  # a cell has a value per seed
    largest = np.inf if name in ("throughput", "times", "views") else 1  # speeds and times can be larger than 1
    assert all(0 <= value <= largest for cell in cells for value in cell)
    assert len(set(map(tuple, cells))) > 1, "all variations have the same values"
    for row in EXPECTED_ROWS[name]:
        assert f"| {row}" in output
    for identifier in content["published"]:
        assert published_tables()[identifier]["caption"] in output


def test_times_without_a_projection_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("times", tmp_path, "--projection-kind", "none") == 2
    assert "remove --projection-kind none" in capsys.readouterr().err


@pytest.mark.slow
def test_seeds_give_a_deviation_and_a_second_run_does_not_extract_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("bias", tmp_path, "--seeds", "1", "2") == 0
    first_output = capsys.readouterr().out
    assert " ± " in first_output.partition("published")[0]
    # Embeddings of two splits, and gradients of two splits for two variations and two seeds.
    assert first_output.count(".h5: 24 rows") == 10
    assert ablate("bias", tmp_path, "--seeds", "1", "2") == 0
    second_output = capsys.readouterr().out
    assert ".h5" not in second_output
    assert first_output[first_output.index("| ") :] == second_output[second_output.index("| ") :]


def test_fewer_rows_are_spread_over_the_split() -> None:
    open_ten_rows = FewerRows(lambda data_dir, split: open_split("digits", split, data_dir), 10)
    samples, all_samples = open_ten_rows(Path(), "train"), open_split("digits", "train", Path())
    assert [samples.ids[0], samples.ids[-1]] == [all_samples.ids[0], all_samples.ids[-1]]
    assert len(samples) == 10
    assert len(FewerRows(open_ten_rows, 50)(Path(), "train")) == 10


def test_a_context_opens_each_split_of_its_dataset_once() -> None:
    runner = VariationRunner(AblateSettings(rows=10, objective=("kl",), device="cpu"))
    assert [len(runner.context.open_split(split)) for split in ("train", "test")] == [10, 10]
    complete = replace(runner.context, dataset=resolve_dataset("digits"))
    assert len(complete.open_split("test")) == 540
    # Opening a split again would take minutes for a million files.
    assert complete.open_split("test") is complete.open_split("test")
    assert len(runner.context.open_split("test")) == 10


@pytest.mark.slow
def test_scores_equal_those_of_the_knn_stage(tmp_path: Path) -> None:
    from fungi.scoring import knn_concat
    from fungi.scoring.knn_concat import KnnSettings

    settings = AblateSettings(root=tmp_path, rows=40, k=3, pca_dim=8, objective=("kl",), device="cpu")
    runner = VariationRunner(settings)
    features = runner.gradients("default", 42) | runner.embeddings()
    root = tmp_path / "ablations"
    assert str(features.arrays["train"]["kl"].path).startswith(str(root / "default-seed42" / "rows-40"))
    files = {}
    for split in ("train", "test"):
        embeddings, kl = (features.arrays[split][name].path for name in ("embeddings", "kl"))
        files[f"{split}_targets"] = embeddings
        files[f"{split}_embeddings_datasets"] = (embeddings,)
        files[f"{split}_datasets"] = (f"{kl}:attn_proj",)
    knn_settings = KnnSettings(**files, k=3, pca_dim=8, output=tmp_path / "knn.json", device="cpu")
    results = knn_concat.run(knn_settings)["results"]
    assert runner.score(features, ["embeddings", "kl"]) == results["embeddings+kl"]["accuracy"]
    assert runner.score(features, ["kl"]) == results["kl"]["accuracy"]


def test_tables_show_deviations_missing_values_and_published_values() -> None:
    table = AblationTable("title", ["first", "second"], ["row"], published=("rebuttal-30",), notes=["be careful"])
    table.add("row", "first", 0.5)
    table.add("row", "first", 0.7)
    text = table.text()
    assert "| row | 60.0 ± 10.0 | -      |" in text
    assert "note: be careful" in text
    assert "| attn.proj weight only     | 59.4     | 61.0       |" in text
    assert "(rebuttal, table 30; vit-b16-augreg-in1k)" in text


@pytest.mark.parametrize("identifier", PUBLISHED_TABLES)
def test_published_tables_are_complete(identifier: str) -> None:
    table = published_tables()[identifier]
    assert all(set(row["values"]) == set(table["columns"]) for row in table["rows"])
    values = [value for row in table["rows"] for value in row["values"].values() if value is not None]
    assert np.all((np.array(values) > 40) & (np.array(values) < 100))


def test_nested_combinations_add_one_feature_at_a_time() -> None:
    assert nested_combinations(["kl", "dino"]) == [["embeddings"], ["embeddings", "kl"], ["embeddings", "kl", "dino"]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ablation", "layer"], "not 'layer'. Did you mean 'layers'"),
        (["--ablation"], "no ablation is named"),
        (["--k", "0"], "--k has to be at least 1"),
        (["--objective", "kll"], "unknown objective 'kll'. Did you mean 'kl'"),
    ],
)
def test_mistakes_in_flags_are_explained(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS["ablate"].main(flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_projection_of_raw_gradients_gives_the_projected_gradients(tmp_path: Path) -> None:
    """Multiply the raw gradients with the matrix of the run, and compare up to a factor."""
    assert ablate("raw", tmp_path, "--projection-dim", "32") == 0
    (raw_file,) = tmp_path.glob("ablations/raw-gradient-seed42/*/gradients/digits/digits-vit/kl-test.h5")
    (projected_file,) = tmp_path.glob("ablations/projected-to-32-seed42/*/gradients/digits/digits-vit/kl-test.h5")
    with h5py.File(raw_file) as raw, h5py.File(projected_file) as projected:
        gradients, expected = raw["attn_proj"][:], projected["attn_proj"][:]
    (matrix_file,) = tmp_path.rglob("projections/*.pth")
    matrix = load_projection(matrix_file).dense(torch.device("cpu")).numpy()
    projected_gradients = gradients @ matrix.T
    projected_gradients *= np.linalg.norm(expected) / np.linalg.norm(projected_gradients)
    np.testing.assert_allclose(projected_gradients, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_ablations_of_different_rows_and_objectives_have_different_files(tmp_path: Path) -> None:
    shared = {"root": tmp_path, "ablation": ("bias", "pca")}
    default, with_24_rows, *others = (
        AblateSettings(**shared, **options) for options in ({}, {"rows": 24}, {"rows": 48}, {"objective": ("kl",)})
    )
    files = [path for settings in (default, with_24_rows, *others) for path in settings.outputs()]
    assert len(set(files)) == len(files) == 8
    assert with_24_rows.outputs()[0] == tmp_path / "results/ablation-bias-rows24/digits/digits-vit.json"
    assert AblateSettings(**shared, batch_size=2, device="cpu").outputs() == default.outputs()
