"""A setting that can change a score is part of the identity of the result.

Results with different settings never replace each other and never share a cell of a table. Only results with the
published settings are compared with published values.
"""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fungi.ablations.ablate import AblateSettings
from fungi.backbones.base import BACKBONES
from fungi.backbones.loading import choose_input
from fungi.evaluators import TEMPERATURE
from fungi.objectives.binding import bind
from fungi.profiles import PROFILES
from fungi.report import features as report_features
from fungi.report.cells import cells_of, read_results, without_duplicates
from fungi.results.settings import ResultSettings
from fungi.scoring import knn_concat
from fungi.scoring.cluster import ClusterSettings
from fungi.scoring.feature_settings import FeatureSettings
from fungi.scoring.knn_concat import KnnSettings
from fungi.scoring.linear_settings import LinearSettings
from fungi.scoring.retrieval_eval import RetrievalSettings
from fungi.segmentation.settings import SegmentSettings
from fungi.settings import setting
from tests.daily import slow_after_first
from tests.evaluation import feature_folder
from tests.evaluation.feature_folder import LAYER, PROVENANCE, clustered_features, make_folder, write_array
from tests.evaluation.test_report import cells, content
from tests.runtime.test_settings import CLASSES

# Add a new field here only if it cannot change a score at all.
WITHOUT_EFFECT_ON_SCORES = {
    "ResultSettings": {"output"},
    "FeatureSettings": {"root", "device", "block_rows", "memory_gb", "wandb"},
    "KnnSettings": {"search", "seed"},
    "RetrievalSettings": {"data_dir"},
    "AnalyseSettings": {"analysis", "shot_counts", "search"},  # each analysis has separate result files
    "InContextSettings": {"data_dir", "endpoint", "key_variable"},
    "StageSettings": {
        *("root", "data_dir", "device", "batch_size", "views_per_forward", "num_workers", "shard", "block_size"),
        *("overwrite", "accept_other_versions", "wandb", "compile"),
    },
    "GradientSettings": {"short_cut"},
    "AblateSettings": {"ablation"},  # each ablation has a separate result file
    "EncoderSettings": {"data_dir", "num_workers", "device"},
    "SegmentSettings": {
        *("root", "data_dir", "device", "batch_size", "num_workers", "block_size", "memory_gb", "wandb"),
    },
}
EVALUATIONS = [kind for kind in CLASSES if issubclass(kind, ResultSettings)]
OTHER_VALUES = {
    "seeds": {"seeds": (3, 4)},  # a single seed is the setting `seed`
    "few_shot_sampling": {"shots": 5, "few_shot_sampling": "stratified"},
    "few_shot_seed": {"shots": 5, "few_shot_seed": (1, 2, 3)},
    "shots": {"shots": 5},
    "train_size": {"train_size": 0.5},
    "few_shot_validation": {"few_shot_validation": "cv"},
    "combinations": {"combinations": "nested"},
    "solver": {"solver": "lbfgs"},
    "objective": {"objective": ("kl", "ibot")},
    "projection_kind": {"projection_kind": "sparse"},
    "set": {"set": ("kl.temperature=5",)},
    "split": {"split": "train"},
    "ablation": {"ablation": ("pca",)},
    "profile": {"profile": "published"},
    "residual_dtype": {"residual_dtype": "bfloat16"},
    "embedding_precision": {"embedding_precision": "tf32"},
    "views": {"views": "native"},
    "search": {"search": "faiss"},
    "storage": {"storage": "float16"},
    "vote": {"vote": "weighted"},
    "denominator_temperature": {"denominator_temperature": False},
    "neighbour_layout": {"neighbour_layout": "published"},
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_setting_declares_its_effect(kind):
    for field in dataclasses.fields(kind):
        if "aliases" in field.metadata:
            assert field.metadata["affects"] in ("values", "which_results", "nothing")


def test_settings_affect_values_by_default():
    assert setting(1, "a new flag").metadata["affects"] == "values"


@pytest.mark.parametrize("kind", EVALUATIONS, ids=lambda kind: kind.__name__)
def test_settings_without_effect_on_scores_are_listed(kind):
    allowed = set().union(*(WITHOUT_EFFECT_ON_SCORES.get(base.__name__, set()) for base in kind.__mro__))
    assert {field.name for field in dataclasses.fields(kind) if field.metadata["affects"] == "nothing"} <= allowed


def other_value(field, default):
    """Return settings that give a field another value than its default."""
    if field.name == "temperature" and default == TEMPERATURE:
        return {"temperature": 0.5, "vote": "weighted"}
    if field.name in OTHER_VALUES:
        return OTHER_VALUES[field.name]
    if isinstance(default, bool):
        value = not default
    elif isinstance(default, int | float):
        value = default / 2 if isinstance(default, float) else default + 1
    elif isinstance(default, tuple):
        value = (other_value_of_type(str(field.type)),)
    else:
        value = other_value_of_type(str(field.type))
    return {field.name: value}


def other_value_of_type(annotation: str):
    """Return a value of the type of a setting, or of the type of its entries. No setting has this value by default."""
    for name, value in (("Path", Path("x.json")), ("float", 0.25), ("int", 7), ("bool", True)):
        if name in annotation:
            return value
    return "other"


# Ablations do not accept a split. Segmentation accepts only three features.
WITHOUT_OTHER_VALUE = {("AblateSettings", "split"), ("SegmentSettings", "features")}
FIELDS = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field.name}")
    for kind in (KnnSettings, LinearSettings, RetrievalSettings, ClusterSettings, AblateSettings, SegmentSettings)
    for field in dataclasses.fields(kind)
    if field.metadata["affects"] != "nothing" and (kind.__name__, field.name) not in WITHOUT_OTHER_VALUE
]


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_every_setting_that_can_change_scores_changes_the_result_path_and_the_heading(kind, field):
    default, changed = kind(), kind(**other_value(field, field.default))
    # Other fields can also be changed, because some settings need them. `shots` needs no other field.
    changed_back = default if field.name == "shots" else replace(changed, **{field.name: field.default})
    assert changed.outputs() != changed_back.outputs()
    if not issubclass(kind, FeatureSettings):
        return
    is_in_heading = field.name in changed.unusual() or field.name in ("dataset", "backbone", "pca_dim", "shots")
    assert is_in_heading == (field.metadata["affects"] == "values")
    assert default.unusual() == {}


def folder_name(settings) -> str:
    """Return the name of the folder of a result: its task and unusual settings."""
    return settings.result_path().parts[-3]


def test_long_values_and_paths_are_replaced_by_one_hash():
    thousand_draws = KnnSettings(shots=1, few_shot_seed=tuple(range(1000)))
    one_draw_more = replace(thousand_draws, few_shot_seed=tuple(range(1001)))
    names = [folder_name(settings) for settings in (thousand_draws, one_draw_more)]
    assert len(set(names)) == 2
    assert all(len(name) < 30 for name in names)
    long_values = {"layer_key": "x" * 30, "valid_split": "y" * 30, "train_split": "z" * 30, "test_split": "w" * 30}
    assert len(folder_name(LinearSettings(features=("embeddings", "kl", "dino"), seed=1, **long_values))) <= 120
    explicit_files = [KnnSettings(train_embeddings_datasets=(Path(name),)) for name in ("a/train.h5", "b/train.h5")]
    assert len({settings.result_path() for settings in explicit_files}) == 2


def test_names_of_result_folders_contain_unusual_settings():
    settings_by_name = {
        "knn": KnnSettings(),
        "knn-pca4-k5": KnnSettings(k=5, pca_dim=4),
        "knn-5shot-mlp-stratified-k5": KnnSettings(shots=5, k=5, layer_key="mlp", few_shot_sampling="stratified"),
        "knn-single": KnnSettings(combinations="single", search="faiss", seed=1, device="cpu"),
        "linear-lbfgs-tol0.01": LinearSettings(tolerance=0.01, solver="lbfgs"),
        "retrieval-on-test-cropped": RetrievalSettings(test_split="test-cropped"),
    }
    for name, settings in settings_by_name.items():
        assert folder_name(settings) == name


@pytest.mark.slow
def test_results_of_first_shots_and_of_drawn_shots_are_kept_separately(tmp_path):
    make_folder(tmp_path, features=("embeddings", "kl"))
    shared = {"root": (tmp_path,), "pca_dim": 4, "k": 5, "shots": 5}
    for draws in ((), (1, 2, 3), (4,), ()):
        knn_concat.run(KnnSettings(**shared, few_shot_seed=draws))
    distinct_cells = without_duplicates([cell for record in read_results([tmp_path]) for cell in cells_of(record)])
    settings = {str(cell.protocol).partition(", profile")[0] for cell in distinct_cells}
    assert settings == {"knn, 5-shot", "knn, 5-shot drawn"}
    assert len({cell.protocol for cell in distinct_cells}) == 3
    assert not list(tmp_path.rglob("*previous*"))


# Setting -> an unusual value, and its text in the heading.
CHANGED_SETTINGS = {
    "train_split": ("trainval", "fitted on trainval"),
    "normalize": (False, "no L2 norm of gradients"),
    "max_epochs": (1, "max epochs 1"),
    "solver": ("lbfgs", "solver lbfgs"),
    "tolerance": (0.1, "tolerance 0.1"),
    "few_shot_validation": ("cv", "lambda by cv"),
    "renormalise_after_pca": (True, "cosine after PCA"),
    "score_fitted_rows": (True, "FITTED ROWS ARE SCORED"),
    "a_future_flag": (3, "a future flag 3"),
}


@pytest.mark.parametrize("name", CHANGED_SETTINGS)
def test_different_settings_have_their_own_heading_without_published_value(name):
    value, text = CHANGED_SETTINGS[name]
    shots = {"shots": 5} if name.startswith("few") else {}
    shared = {"backbone": "vit-b16-augreg-in1k"} | shots
    default_result = content({"embeddings": 0.3}, **shared) | {"unusual": {}}
    changed_result = content({"embeddings": 0.4}, **shared, **{name: value}) | {"unusual": {name: value}}
    default_cell, changed_cell = without_duplicates(cells(default_result, changed_result))
    assert default_cell.published is not None
    assert changed_cell.published is None
    assert text in str(changed_cell.protocol)
    assert text not in str(default_cell.protocol)


@pytest.mark.parametrize("objective", ["kl", "dino", "simclr"])
def test_a_report_gets_the_settings_of_an_objective_without_drawing_its_heads(objective, monkeypatch):
    """Check that a report of thousands of results is fast: it gets the settings for every backbone and dataset."""
    spec = BACKBONES["vit-b16"]
    bound = bind(
        objective, embedding_dim=spec.embedding_dim, input_spec=choose_input(spec, PROFILES["published"]), seed=42
    )
    monkeypatch.setattr(torch, "rand", lambda *_, **__: pytest.fail("random numbers were drawn"))
    for cached in (report_features._default_settings, report_features._settings_for_input):
        cached.cache_clear()
    expected = json.loads(json.dumps(bound.settings, default=str))
    assert report_features._default_settings(objective, "vit-b16", "pets", "published") == expected


# Text in the heading -> arguments of `write_features` that cause it.
CHANGED_FEATURES = {
    "random weights": {"provenance": {"weights_source": "random initialisation, seed 42", "weights_hash": "r"}},
    "checkpoint weights-": {"provenance": {"weights_source": "checkpoint mine.pth", "weights_hash": "weights-mine"}},
    "kl temperature 5.0": {"provenance": {"objective_settings": {"temperature": 5.0, "normalize": True}}},
    "sparse projection": {"layer": {"projection_kind": "sparse"}},
    "no gradient of the bias": {"layer": {"bias": False}},
    "projected to 12": {"dim": 12},
    "seed 43": {"provenance": {"seed": 43}},
    "extracted in bfloat16": {"provenance": {"dtype": "bfloat16"}},
}


def write_features(root: Path, *, provenance=None, layer=None, dim=96, dataset="pets"):
    """Write embeddings and KL gradients with the given changes of their provenance."""
    layout = feature_folder.Layout(root)
    shared = {"dataset": dataset, "weights_source": "published weights", "objective_settings": {"temperature": 15.0}}
    kl_layer = replace(LAYER, **{"layer": "blocks.3.attn.proj"} | (layer or {}))
    for split, rows in (("train", 60), ("test", 20)):
        for feature in ("embeddings", "kl"):
            values, targets = clustered_features(rows, dim, 3, seed=len(split) + len(feature))
            facts = shared | {"feature": feature, "split": split, "dataset_fingerprint": split} | (provenance or {})
            origin = replace(PROVENANCE, **facts)
            path = layout.features(feature, dataset, "digits-vit", split)
            if feature == "embeddings":
                write_array(path, "embeddings", values, provenance=origin, targets=targets)
            else:
                write_array(path, "attn_proj", values, provenance=origin, layer=kl_layer)


@pytest.mark.parametrize("text", slow_after_first(CHANGED_FEATURES))
def test_results_of_different_features_have_different_headings_and_are_both_kept(text, tmp_path):
    """Extract twice to the same root. The new result replaces the old file, but the old result stays in the report."""
    settings = KnnSettings(root=(tmp_path,), dataset="pets", k=5)
    write_features(tmp_path)
    first_result = knn_concat.run(settings)
    write_features(tmp_path, **CHANGED_FEATURES[text])
    knn_concat.run(settings)
    records = read_results([tmp_path], include_previous=True)
    distinct_cells = without_duplicates([cell for record in records for cell in cells_of(record)])
    headings = {str(cell.protocol) for cell in distinct_cells}
    assert len(headings) == 2
    assert [text in heading for heading in sorted(headings, key=len)] == [False, True]
    as_published = [cell.as_published for cell in distinct_cells if text in str(cell.protocol)]
    assert set(as_published) == {False}  # k is 5 here; the next test uses the published k
    write_features(tmp_path)
    assert knn_concat.run(settings) == first_result  # the old result is restored, not computed again
    assert len(list(tmp_path.rglob("results/**/*.json"))) == 2


@pytest.mark.parametrize("text", slow_after_first([None, *CHANGED_FEATURES], 2))
def test_only_seeds_and_precision_may_differ_from_the_published_features(text, tmp_path):
    write_features(tmp_path, **CHANGED_FEATURES.get(text, {}))
    result = knn_concat.run(KnnSettings(root=(tmp_path,), dataset="pets"))
    allowed = (None, "seed 43", "extracted in bfloat16")
    assert {cell.as_published for cell in cells(result)} == {text in allowed}


@pytest.mark.slow
def test_headings_distinguish_features_by_hash_if_words_are_equal(tmp_path):
    all_cells = []
    for name in ("a", "b"):
        root = tmp_path / name
        write_features(root, provenance={"dataset_fingerprint": name, "input": name})
        result = knn_concat.run(KnnSettings(root=(root,), dataset="pets", score_fitted_rows=True))
        all_cells += cells(result)
    distinct_cells = without_duplicates(all_cells)
    assert len(distinct_cells) == len(all_cells)
    half = len(all_cells) // 2  # the cells of the first folder come first
    headings, other_headings = (
        {str(cell.protocol) for cell in part} for part in (distinct_cells[:half], distinct_cells[half:])
    )
    assert not headings & other_headings
    assert all("features " in heading for heading in headings | other_headings)


def test_queries_of_the_published_code_are_used_by_default_and_never_instead_of_cropped_queries(tmp_path):
    make_folder(tmp_path, rows={"train": 20, "query": 8}, dataset="oxford-landmarks")
    settings = RetrievalSettings(root=(tmp_path,), backbone="digits-vit")
    (path,) = settings.outputs()
    assert path.parts[-3] == "retrieval-on-query"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": {"test_split": "query"}, "provenance": {}, "results": {}}))
    assert settings.difference(path) == ""
    assert replace(settings, test_split="test-cropped").with_existing_queries().test_split == "test-cropped"
