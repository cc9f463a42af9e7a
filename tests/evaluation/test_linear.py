"""Compare logistic regression with scikit-learn, and the protocol with the published results."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.evaluators.linear import (
    LAMBDAS,
    LabelledRows,
    cross_validation_accuracies,
    fit_classifier,
    validation_accuracies,
)
from fungi.evaluators.logistic import LogisticOptions, LogisticProblem, bytes_beside_features, fit, fit_path
from fungi.scoring import linear_scorer, train_linear_concat_grads
from fungi.scoring.linear_scorer import held_out_fifth
from fungi.scoring.linear_settings import LinearSettings
from fungi.store.reading import UnknownOriginWarning
from tests.daily import slow_after_first
from tests.evaluation.feature_folder import clustered_features, make_folder
from tests.evaluation.golden import file_flags, reference_result

SOLVERS = ["cyanure", "lbfgs"]


def labelled(rows: int = 240, dim: int = 10, classes: int = 3, seed: int = 0, noise: float = 2.0) -> LabelledRows:
    """Return random rows with labels; the classes overlap if the noise is large."""
    features, targets = clustered_features(rows, dim, classes, seed, noise)
    return LabelledRows(torch.from_numpy(features), targets.astype(np.int64))


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("solver", slow_after_first(SOLVERS))
def test_accuracies_equal_those_of_the_published_code(solver, tmp_path):
    """Allow differences of one point, which is four of the 400 test rows, because the solvers are iterative."""
    output = tmp_path / "result.json"
    flags = [*file_flags(("train", "valid", "test")), "--pca-dim", "32", "--solver", solver, "--output", str(output)]
    with pytest.warns(UnknownOriginWarning):
        assert COMMANDS["linear"].main(flags) == 0
    results, reference = json.loads(output.read_text())["results"], reference_result("expected-linear")["results"]
    assert list(results) == list(reference)
    for combination, scores in reference.items():
        for metric in ("accuracy", "mean-per-class-accuracy"):
            assert results[combination][metric] == pytest.approx(scores[metric], abs=0.01)
        assert results[combination]["fit"]["relative_duality_gap"] <= 1e-3


@pytest.mark.slow
def test_both_solvers_agree_within_half_a_point_on_the_golden_features(tmp_path):
    accuracies = []
    for solver in SOLVERS:
        output = tmp_path / f"{solver}.json"
        flags = [*file_flags(("train", "valid", "test")), "--pca-dim", "32", "--tol", "1e-5", "--solver", solver]
        with pytest.warns(UnknownOriginWarning):
            COMMANDS["linear"].main([*flags, "--output", str(output)])
        accuracies.append([scores["accuracy"] for scores in json.loads(output.read_text())["results"].values()])
    np.testing.assert_allclose(*accuracies, atol=0.005)


@pytest.mark.also_with_two_threads
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_the_optimum_equals_that_of_scikit_learn(solver, classes):
    """Use the equivalent setting of scikit-learn, C = 1 / (n lambda) without intercept.

    For two classes, scikit-learn has a single weight vector w. It is equivalent to the multinomial weights [-w/2, w/2],
    with half the penalty.
    """
    rows, regularization = labelled(classes=classes), 1e-2
    fitted = fit_classifier(rows, regularization, LogisticOptions(solver=solver, tolerance=1e-9)).logistic
    inverse_penalty = 1 / (len(rows.targets) * regularization) * (2 if classes == 2 else 1)
    oracle = LogisticRegression(C=inverse_penalty, fit_intercept=False, tol=1e-10, max_iter=5000)
    oracle.fit(rows.features.numpy(), rows.targets)
    expected_weights = np.stack([-oracle.coef_[0] / 2, oracle.coef_[0] / 2], 1) if classes == 2 else oracle.coef_.T
    # Predictions do not change if the weights of all classes are shifted equally.
    centred = fitted.weights - fitted.weights.mean(dim=1, keepdim=True)
    np.testing.assert_allclose(centred, expected_weights, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_labels_need_not_start_at_zero_or_be_consecutive(solver):
    rows = labelled()
    options = LogisticOptions(solver=solver, tolerance=1e-8)
    consecutive = fit_classifier(rows, 1e-2, options)
    with_gaps = fit_classifier(replace(rows, targets=rows.targets * 7 + 5), 1e-2, options)
    np.testing.assert_array_equal(with_gaps.predict(rows.features), consecutive.predict(rows.features) * 7 + 5)


@pytest.mark.also_with_two_threads
def test_the_duality_gap_bounds_the_distance_to_the_optimum():
    rows = labelled()
    problem = LogisticProblem(rows.features, torch.from_numpy(rows.targets), classes=3, regularization=1e-3)

    def objective(weights):
        return float(problem.data_term(weights)[0] + 1e-3 / 2 * weights.square().sum())

    optimum = fit(problem, LogisticOptions(solver="lbfgs", tolerance=1e-12))
    assert optimum.relative_gap < 1e-12
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        weights = optimum.weights + scale * torch.randn(optimum.weights.shape, generator=generator, dtype=torch.float64)
        distance = (objective(weights) - objective(optimum.weights)) / objective(weights)
        assert 0 < distance <= problem.relative_gap(weights)


@pytest.mark.also_with_two_threads
def test_warm_and_cold_starts_have_the_same_optimum():
    rows = labelled()
    options = LogisticOptions(solver="lbfgs", tolerance=1e-10)
    codes = torch.from_numpy(rows.targets)
    for warm in fit_path(rows.features, codes, classes=3, lambdas=LAMBDAS, options=options):
        cold = fit(LogisticProblem(rows.features, codes, classes=3, regularization=warm.regularization), options)
        torch.testing.assert_close(warm.weights, cold.weights, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_loose_tolerance_stops_earlier_with_a_larger_recorded_gap(tmp_path):
    make_folder(tmp_path, dim=40)
    settings = LinearSettings(root=(tmp_path,), solver="lbfgs", tolerance=1e-6, compare_tolerances=(0.5, 1e-8), seed=0)
    fit_facts = train_linear_concat_grads.run(settings)["results"]["embeddings"]["fit"]
    loose, tight = fit_facts["tolerances"]
    assert loose["relative_duality_gap"] > tight["relative_duality_gap"]
    assert tight["relative_duality_gap"] <= 1e-8
    assert loose["epochs"] < tight["epochs"]
    assert fit_facts["reached_tolerance"]


@pytest.mark.slow
def test_too_few_epochs_do_not_reach_the_tolerance(tmp_path):
    make_folder(tmp_path, dim=40)
    settings = LinearSettings(root=(tmp_path,), solver="lbfgs", tolerance=1e-12, max_epochs=5)
    assert not train_linear_concat_grads.run(settings)["results"]["embeddings"]["fit"]["reached_tolerance"]


def test_the_validation_part_is_a_stratified_fifth():
    targets = np.repeat([0, 1, 2], [50, 30, 20])
    train_rows, validation_rows = held_out_fifth(targets, seed=42)
    np.testing.assert_array_equal(np.sort(np.concatenate([train_rows, validation_rows])), np.arange(100))
    np.testing.assert_array_equal(np.bincount(targets[validation_rows]), [10, 6, 4])
    with pytest.raises(FungiError, match=r"can't be divided 80/20 by class"):
        held_out_fifth(np.array([0, 0, 0, 0, 1]), seed=42)
    with pytest.raises(FungiError, match=r"these classes have a single train row: class 'dog'\..*--valid-split"):
        held_out_fifth(np.array([0, 0, 0, 0, 1]), seed=42, class_names=["cat", "dog"])


@pytest.mark.slow
def test_rows_of_the_final_fit_follow_the_protocol(tmp_path):
    """Fit on the shots in few-shot runs, and on all rows of the train split otherwise, never on validation rows."""
    make_folder(tmp_path / "two-splits")
    make_folder(tmp_path / "with-validation", rows={"train": 120, "valid": 40, "test": 60})

    def fitted_rows(root, **options):
        settings = LinearSettings(root=(root,), solver="lbfgs", features=("embeddings",), **options)
        return train_linear_concat_grads.run(settings)["results"]["embeddings"]["fit"]["rows"]

    for name in ("two-splits", "with-validation"):
        assert fitted_rows(tmp_path / name) == 120
        assert fitted_rows(tmp_path / name, shots=5) == 20  # 5 rows of each of 4 classes


@pytest.mark.parametrize("validation", ["published", "cv", "none"])
def test_few_shot_validation_can_be_chosen(validation, tmp_path):
    make_folder(tmp_path)
    settings = LinearSettings(root=(tmp_path,), shots=4, few_shot_validation=validation, features=("embeddings",))
    scores = train_linear_concat_grads.run(settings)["results"]["embeddings"]
    assert (scores["validation_accuracies"] is None) == (validation == "none")
    if validation == "none":
        middle_of_the_lambdas = LAMBDAS[2]
        assert scores["fit"]["lambda"] == pytest.approx(middle_of_the_lambdas) == 2.525e-4


@pytest.mark.slow
def test_the_linear_probe_scores_nested_combinations_by_default_and_all_on_request(tmp_path):
    make_folder(tmp_path)
    settings = LinearSettings(root=(tmp_path,), solver="lbfgs")
    assert list(train_linear_concat_grads.run(settings)["results"]) == [
        "embeddings",
        "embeddings+kl",
        "embeddings+kl+dino",
    ]
    with_all_combinations = replace(settings, all_combinations=True, output=tmp_path / "all.json")
    assert len(train_linear_concat_grads.run(with_all_combinations)["results"]) == 7  # of three features


def test_the_first_of_equally_good_lambdas_is_the_best():
    separable = labelled(noise=0.01)
    accuracies = validation_accuracies(separable, separable, LogisticOptions(solver="lbfgs"))
    np.testing.assert_array_equal(accuracies, np.ones(5))
    assert accuracies.argmax() == 0


def test_a_single_class_is_refused():
    rows = labelled()
    with pytest.raises(FungiError, match=r"all train rows have the label 1"):
        fit_classifier(replace(rows, targets=np.ones(240, dtype=np.int64)), 1e-3, LogisticOptions())


def test_the_default_number_of_epochs_is_smaller_for_imagenet():
    assert LinearSettings(dataset="imagenet-1k").epochs == 30
    assert LinearSettings(dataset="pets").epochs == 300
    assert LinearSettings(dataset="pets", max_epochs=7).epochs == 7


@pytest.mark.parametrize("solver", SOLVERS)
def test_two_classes_are_ranked_by_the_probability_of_class_1(solver):
    rows, regularization = labelled(classes=2, noise=3.0), 1e-2
    classifier = fit_classifier(rows, regularization, LogisticOptions(solver=solver, tolerance=1e-9))
    inverse_penalty = 2 / (len(rows.targets) * regularization)
    oracle = LogisticRegression(C=inverse_penalty, fit_intercept=False, tol=1e-10, max_iter=5000)
    margins = oracle.fit(rows.features.numpy(), rows.targets).decision_function(rows.features.numpy())
    np.testing.assert_allclose(classifier.decision_score(rows.features), margins, atol=1e-3 * np.abs(margins).max())
    labels_1_and_2 = replace(rows, targets=rows.targets + 1)
    assert fit_classifier(labels_1_and_2, regularization, LogisticOptions()).decision_score(rows.features) is None


def test_the_additional_memory_of_cyanure_is_logged_before_the_fit(tmp_path, monkeypatch, capsys):
    make_folder(tmp_path)
    monkeypatch.setattr(linear_scorer, "LOGGED_MEMORY", 1000)
    flags = ["--root", str(tmp_path), "--features", "embeddings"]
    assert COMMANDS["linear"].main(flags) == 0
    assert "for 120 rows x 4 classes besides the features; --solver lbfgs does not." in capsys.readouterr().err
    imagenet_rows, imagenet_classes, gib = 1_281_167, 1000, 2**30
    assert bytes_beside_features("cyanure", imagenet_rows, imagenet_classes) > 20 * gib
    assert bytes_beside_features("lbfgs", imagenet_rows, imagenet_classes) < gib


def test_a_missing_official_validation_split_gives_a_warning_and_a_missing_file_an_error(tmp_path, capsys):
    make_folder(tmp_path, dataset="textures")
    flags = ["--root", str(tmp_path), "--dataset", "textures", "--features", "embeddings"]
    assert COMMANDS["linear"].main(flags) == 0
    assert "textures has a validation split, but its features are not extracted" in capsys.readouterr().err
    assert COMMANDS["linear"].main([*flags, "--valid-targets", "nowhere.h5"]) == 2


@pytest.mark.slow
def test_cross_validation_depends_only_on_its_seed():
    generator = np.random.default_rng(0)
    rows = LabelledRows(torch.from_numpy(generator.normal(size=(60, 4))), generator.integers(0, 3, 60))
    scores, scores_of_same_seed, scores_of_other_seed = (
        cross_validation_accuracies(rows, folds=5, options=LogisticOptions(solver="lbfgs", seed=seed)).tolist()
        for seed in (1, 1, 2)
    )
    assert scores == scores_of_same_seed
    assert scores != scores_of_other_seed


def test_a_validation_split_without_features_is_refused_with_a_similar_name_as_advice(tmp_path):
    make_folder(tmp_path)
    settings = LinearSettings(root=(tmp_path,), valid_split="tests")
    with pytest.raises(FungiError, match=r"--valid-split tests: .*Did you mean 'test'\? It has: test, train"):
        settings.splits(tmp_path)
