"""A setting that decides a score is part of the identity of the result. Results with different settings never replace
each other, never share a cell, and have published values only with the published settings (DESIGN 3.4)."""

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
from fungi.report.cells import ResultRecord, cells_of, read_results, without_duplicates
from fungi.results.settings import ResultSettings
from fungi.scoring import knn_concat
from fungi.scoring.cluster import ClusterSettings
from fungi.scoring.feature_settings import FeatureSettings
from fungi.scoring.knn_concat import KnnSettings
from fungi.scoring.linear_settings import LinearSettings
from fungi.scoring.retrieval_eval import RetrievalSettings
from fungi.segmentation.settings import SegmentSettings
from fungi.settings import setting
from tests.daily import first_fast
from tests.evaluation import feature_folder
from tests.evaluation.feature_folder import LAYER, PROVENANCE, clustered, make_folder, write_array
from tests.evaluation.test_report import content
from tests.runtime.test_settings import CLASSES

# A new field of an evaluation belongs here only if it can't change any score, however large or small its effect.
DECIDE_NOTHING = {
    "ResultSettings": {"output"},
    "FeatureSettings": {"root", "device", "block_rows", "memory_gb", "wandb"},
    "KnnSettings": {"search", "seed"},
    "RetrievalSettings": {"data_dir"},
    "AnalyseSettings": {"analysis", "shot_counts", "search"},  # each analysis writes result files of its own
    "InContextSettings": {"data_dir", "endpoint", "key_variable"},
    "StageSettings": {
        *("root", "data_dir", "device", "batch_size", "views_per_forward", "num_workers", "shard", "block_size"),
        *("overwrite", "accept_other_versions", "wandb", "compile"),
    },
    "GradientSettings": {"short_cut"},
    "AblateSettings": {"ablation"},  # each writes a result file of its own
    "EncoderSettings": {"data_dir", "num_workers", "device"},
    "SegmentSettings": {
        *("root", "data_dir", "device", "batch_size", "num_workers", "block_size", "memory_gb", "wandb"),
    },
}
EVALUATIONS = [kind for kind in CLASSES if issubclass(kind, ResultSettings)]
OTHER_VALUES = {
    "seeds": {"seeds": (3, 4)},  # one alone is the setting `seed`
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
            assert field.metadata["decides"] in ("scores", "contents", "nothing")


def test_settings_decide_the_scores_by_default():
    assert setting(1, "a new flag").metadata["decides"] == "scores"


@pytest.mark.parametrize("kind", EVALUATIONS, ids=lambda kind: kind.__name__)
def test_settings_without_effect_on_scores_are_listed(kind):
    listed = set().union(*(DECIDE_NOTHING.get(base.__name__, set()) for base in kind.__mro__))
    assert {field.name for field in dataclasses.fields(kind) if field.metadata["decides"] == "nothing"} <= listed


def other_value(field, default):
    """Return a setting with a value that is not the default."""
    if field.name == "temperature" and default == TEMPERATURE:
        return {"temperature": 0.5, "vote": "weighted"}
    if field.name in OTHER_VALUES:
        return OTHER_VALUES[field.name]
    if default is None and "Path" not in str(field.type) and "int" not in str(field.type):
        return {field.name: 0.5 if "float" in str(field.type) else True if "bool" in str(field.type) else "other"}
    if isinstance(default, bool):
        return {field.name: not default}
    if isinstance(default, int | float):
        return {field.name: default / 2 if isinstance(default, float) else default + 1}
    if isinstance(default, tuple):
        if "Path" in str(field.type):
            return {field.name: (Path("x"),)}
        numbers = "int" in str(field.type) or "float" in str(field.type)
        return {field.name: (0.25,) if "float" in str(field.type) else (3,) if numbers else ("x",)}
    return {field.name: 7 if "int" in str(field.type) else Path("x.json") if "Path" in str(field.type) else "other"}


# Ablations refuse a split. Segmentation accepts only three features.
WITHOUT_OTHER_VALUE = {("AblateSettings", "split"), ("SegmentSettings", "features")}
FIELDS = [
    pytest.param(kind, field, id=f"{kind.__name__}.{field.name}")
    for kind in (KnnSettings, LinearSettings, RetrievalSettings, ClusterSettings, AblateSettings, SegmentSettings)
    for field in dataclasses.fields(kind)
    if field.metadata["decides"] != "nothing" and (kind.__name__, field.name) not in WITHOUT_OTHER_VALUE
]


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_every_deciding_setting_changes_the_result_path_and_the_unusual_settings(kind, field):
    usual, other = kind(), kind(**other_value(field, field.default))
    without = replace(other, **{field.name: field.default}) if field.name != "shots" else usual
    assert other.outputs() != without.outputs()
    if not issubclass(kind, FeatureSettings):
        return
    named = (field.name in other.unusual()) or field.name in ("dataset", "backbone", "pca_dim", "shots")
    assert named == (field.metadata["decides"] == "scores")
    assert usual.unusual() == {}


def test_long_values_and_paths_are_replaced_by_one_hash():
    many = KnnSettings(shots=1, few_shot_seed=tuple(range(1000)))
    longer = replace(many, few_shot_seed=tuple(range(1001)))
    names = [settings.result_path().parts[-3] for settings in (many, longer)]
    assert len(set(names)) == 2
    assert all(len(name) < 30 for name in names)
    long = LinearSettings(features=("embeddings", "kl", "dino"), layer_key="x" * 30, valid_split="y" * 30, seed=1)
    assert len(replace(long, train_split="z" * 30, test_split="w" * 30).result_path().parts[-3]) <= 120
    files = [KnnSettings(train_embeddings_datasets=(Path(name),)) for name in ("a/train.h5", "b/train.h5")]
    assert len({settings.result_path() for settings in files}) == 2


def test_names_of_result_files_contain_unusual_settings():
    shown = {
        "knn": KnnSettings(),
        "knn-pca4-k5": KnnSettings(k=5, pca_dim=4),
        "knn-5shot-mlp-stratified-k5": KnnSettings(shots=5, k=5, layer_key="mlp", few_shot_sampling="stratified"),
        "knn-single": KnnSettings(combinations="single", search="faiss", seed=1, device="cpu"),
        "linear-lbfgs-tol0.01": LinearSettings(tolerance=0.01, solver="lbfgs"),
        "retrieval-on-test-cropped": RetrievalSettings(test_split="test-cropped"),
    }
    assert {name: settings.result_path().parts[-3] for name, settings in shown.items()} == {
        name: name for name in shown
    }


@pytest.mark.slow
def test_results_of_first_shots_and_of_drawn_shots_are_kept_separately(tmp_path):
    make_folder(tmp_path, features=("embeddings", "kl"))
    shared = {"root": (tmp_path,), "pca_dim": 4, "k": 5, "shots": 5}
    for draws in ((), (1, 2, 3), (4,), ()):
        knn_concat.run(KnnSettings(**shared, few_shot_seed=draws))
    cells = without_duplicates([cell for record in read_results([tmp_path]) for cell in cells_of(record)])
    settings = {str(cell.protocol).partition(", profile")[0] for cell in cells}
    assert settings == {"knn, 5-shot", "knn, 5-shot drawn"}
    assert len({cell.protocol for cell in cells}) == 3
    assert not list(tmp_path.rglob("*previous*"))


UNLIKE = {
    "train_split": ("trainval", "fitted on trainval"),
    "normalize": (False, "no L2 norm of gradients"),
    "max_epochs": (1, "max epochs 1"),
    "solver": ("lbfgs", "solver lbfgs"),
    "tolerance": (0.1, "tolerance 0.1"),
    "few_shot_validation": ("cv", "lambda by cv"),
    "renormalise_after_pca": (True, "cosine after PCA"),
    "score_fitted_rows": (True, "FITTED ROWS ARE SCORED"),
    "a_flag_of_tomorrow": (3, "a flag of tomorrow 3"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_different_settings_have_their_own_heading_without_published_value(name):
    value, words = UNLIKE[name]
    shots = {"shots": 5} if name.startswith("few") else {}
    shared = {"backbone": "vit-b16-augreg-in1k"} | shots
    usual = content({"embeddings": 0.3}, **shared) | {"unusual": {}}
    unlike = content({"embeddings": 0.4}, **shared, **{name: value}) | {"unusual": {name: value}}
    result_cells = without_duplicates(
        [cell for result in (usual, unlike) for cell in cells_of(ResultRecord(Path("x.json"), result))]
    )
    assert len(result_cells) == 2
    assert [cell.published is not None for cell in result_cells] == [True, False]
    assert words in str(result_cells[1].protocol)
    assert words not in str(result_cells[0].protocol)


@pytest.mark.parametrize("objective", ["kl", "dino", "simclr"])
def test_a_report_gets_the_settings_of_an_objective_without_drawing_its_heads(objective, monkeypatch):
    """A report of 2,000 results asks for the settings of three objectives for each pair of backbone and dataset."""
    spec = BACKBONES["vit-b16"]
    bound = bind(
        objective, embedding_dim=spec.embedding_dim, input_spec=choose_input(spec, PROFILES["published"]), seed=42
    )
    monkeypatch.setattr(torch, "rand", lambda *_, **__: pytest.fail("random numbers were drawn"))
    for cached in (report_features._default_settings, report_features._settings_for_input):
        cached.cache_clear()
    expected = json.loads(json.dumps(bound.settings, default=str))
    assert report_features._default_settings(objective, "vit-b16", "pets", "published") == expected


UNLIKE_FEATURES = {
    "random weights": {"provenance": {"weights_source": "random initialisation, seed 42", "weights_hash": "r"}},
    "checkpoint weights-": {"provenance": {"weights_source": "checkpoint mine.pth", "weights_hash": "weights-mine"}},
    "kl temperature 5.0": {"provenance": {"objective_settings": {"temperature": 5.0, "normalize": True}}},
    "sparse projection": {"layer": {"projection_kind": "sparse"}},
    "no gradient of the bias": {"layer": {"bias": False}},
    "projected to 12": {"dim": 12},
    "seed 43": {"provenance": {"seed": 43}},
    "extracted in bfloat16": {"provenance": {"dtype": "bfloat16"}},
}


def features(root: Path, *, provenance=None, layer=None, dim=96, dataset="pets"):
    """Write embeddings and KL gradients as extraction does, with the given changes of their provenance."""
    layout = feature_folder.Layout(root)
    shared = {"dataset": dataset, "weights_source": "published weights", "objective_settings": {"temperature": 15.0}}
    for split, rows in (("train", 60), ("test", 20)):
        for feature in ("embeddings", "kl"):
            values, targets = clustered(rows, dim, 3, seed=len(split) + len(feature))
            facts = shared | {"feature": feature, "split": split, "dataset_fingerprint": split} | (provenance or {})
            options = (
                {"targets": targets} if feature == "embeddings" else {"layer": replace(LAYER, **KL | (layer or {}))}
            )
            path = layout.features(feature, dataset, "digits-vit", split)
            write_array(path, KEYS[feature], values, provenance=replace(PROVENANCE, **facts), **options)


KL = {"layer": "blocks.3.attn.proj"}
KEYS = {"embeddings": "embeddings", "kl": "attn_proj"}


@pytest.mark.parametrize("words", first_fast(UNLIKE_FEATURES))
def test_results_of_different_features_have_different_headings_and_are_both_kept(words, tmp_path):
    """After a second extraction to one root, the new result has the path, and the old result stays in the report."""
    settings = KnnSettings(root=(tmp_path,), dataset="pets", k=5)
    features(tmp_path)
    usual = knn_concat.run(settings)
    features(tmp_path, **UNLIKE_FEATURES[words])
    knn_concat.run(settings)
    records = read_results([tmp_path], include_previous=True)
    cells = without_duplicates([cell for record in records for cell in cells_of(record)])
    headings = {str(cell.protocol) for cell in cells}
    assert len(headings) == 2
    assert [words in heading for heading in sorted(headings, key=len)] == [False, True]
    as_published = [cell.as_published for cell in cells if words in str(cell.protocol)]
    assert set(as_published) == {False}  # k is 5 here; the next test checks the other settings
    features(tmp_path)
    assert knn_concat.run(settings) == usual  # the old result is restored, not computed again
    assert len(list(tmp_path.rglob("results/**/*.json"))) == 2


@pytest.mark.parametrize("words", first_fast([None, *UNLIKE_FEATURES], 2))
def test_only_seeds_and_precision_may_differ_from_the_published_features(words, tmp_path):
    features(tmp_path, **UNLIKE_FEATURES.get(words, {}))
    (record,) = _recorded(knn_concat.run(KnnSettings(root=(tmp_path,), dataset="pets")))
    allowed = (None, "seed 43", "extracted in bfloat16")
    assert {cell.as_published for cell in cells_of(record)} == {words in allowed}


def _recorded(result):
    return [ResultRecord(Path("x.json"), result)]


@pytest.mark.slow
def test_headings_distinguish_features_by_hash_if_words_are_equal(tmp_path):
    all_cells = []
    for data in ("a", "b"):
        features(tmp_path / data, provenance={"dataset_fingerprint": f"{data}"} | {"input": data})
        record = ResultRecord(
            Path("x.json"), knn_concat.run(KnnSettings(root=(tmp_path / data,), dataset="pets", score_fitted_rows=True))
        )
        all_cells += cells_of(record)
    cells = without_duplicates(all_cells)
    assert len(cells) == len(all_cells)
    assert len({str(cell.protocol) for cell in cells}) > 1
    assert all("features " in str(cell.protocol) for cell in cells)


def test_queries_of_the_original_harness_are_used_by_default_and_never_instead_of_cropped_queries(tmp_path):
    make_folder(tmp_path, rows={"train": 20, "query": 8}, dataset="oxford-landmarks")
    settings = RetrievalSettings(root=(tmp_path,), backbone="digits-vit")
    (path,) = settings.outputs()
    assert path.parts[-3] == "retrieval-on-query"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"settings": {"test_split": "query"}, "provenance": {}, "results": {}}))
    assert settings.difference(path) == ""
    assert replace(settings, test_split="test-cropped").with_existing_queries().test_split == "test-cropped"
