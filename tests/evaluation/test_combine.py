"""Compare names, few-shot rows, normalised blocks and PCA with simple implementations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from fungi.combine.few_shot import few_shot_rows
from fungi.combine.names import all_combinations, in_order, name_of, nested_chain
from fungi.combine.pca import Reducer, pca_skip_reason, reduced
from fungi.combine.source import ArrayInMemory, FeatureSource, l2_normalized
from fungi.errors import FungiError
from tests.evaluation.feature_folder import clustered_features

CPU = torch.device("cpu")


def source_of(arrays: dict[str, np.ndarray], rows=None, **options) -> FeatureSource:
    """Return a source of features in memory. rows: the selected rows; all by default."""
    return FeatureSource({name: ArrayInMemory(values, name) for name, values in arrays.items()}, rows, **options)


def three_features(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return features of different sizes, with scales between 1e-9 and 1e3."""
    scales = {"embeddings": (20, 1.0), "kl": (12, 1e-9), "dino": (7, 1e3)}
    return {
        name: scale * (3 + clustered_features(rows, dim, 5, seed + index)[0])
        for index, (name, (dim, scale)) in enumerate(scales.items())
    }


def joined_rows(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """Return the normalised rows of some features, concatenated."""
    normalised = [arrays[name] / np.linalg.norm(arrays[name], axis=1, keepdims=True) for name in names]
    return np.concatenate(normalised, axis=1)


def float32_features(
    joined: np.ndarray, arrays: dict[str, np.ndarray], names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Split concatenated rows into features with the widths of the given arrays."""
    ends = np.cumsum([arrays[name].shape[1] for name in names])
    features = np.split(joined, ends[:-1], axis=1)
    return {name: values.astype(np.float32) for name, values in zip(names, features, strict=True)}


def test_combination_names_follow_the_canonical_order_with_unknown_features_last():
    assert name_of(["zeta", "simclr", "ibot", "embeddings", "alpha", "kl"]) == "embeddings+kl+simclr+ibot+alpha+zeta"


def test_all_combinations_are_all_subsets_and_the_chain_is_nested():
    features = ["dino", "embeddings", "simclr", "kl"]
    combination_names = [name_of(combination) for combination in all_combinations(features)]
    assert len(combination_names) == len(set(combination_names)) == 15
    assert [name_of(combination) for combination in nested_chain(features)] == [
        "embeddings",
        "embeddings+kl",
        "embeddings+kl+dino",
        "embeddings+kl+dino+simclr",
    ]


def test_a_feature_named_twice_is_refused():
    with pytest.raises(FungiError, match=r"feature 'kl' is repeated"):
        in_order(["kl", "embeddings", "kl"])


def test_few_shots_are_the_first_rows_of_each_class_in_stored_order():
    targets = np.array([2, 0, 0, 2, 1, 1, 0, 2, 1])
    np.testing.assert_array_equal(few_shot_rows(targets, size=2), [0, 1, 2, 3, 4, 5])


def test_drawn_shots_are_balanced_and_depend_only_on_the_seed():
    targets = np.arange(200) % 4
    rows, rows_of_same_seed, rows_of_other_seed = (few_shot_rows(targets, size=7, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(rows, rows_of_same_seed)
    assert (rows != rows_of_other_seed).any()
    np.testing.assert_array_equal(np.bincount(targets[rows]), [7, 7, 7, 7])
    assert len(set(rows)) == len(rows)  # no row is drawn twice


def test_an_error_names_the_class_with_fewer_rows_than_shots():
    with pytest.raises(FungiError, match=r"class 1 has 2 train rows, but --shots needs 3"):
        few_shot_rows(np.array([0, 0, 0, 1, 1]), size=3)
    with pytest.raises(FungiError, match=r"class 'dog' has 1 train row, but --shots needs 3"):
        few_shot_rows(np.array([0, 0, 0, 1]), size=3, class_names=["cat", "dog"])


def test_tiny_gradients_are_normalised_and_zero_rows_stay_zero():
    rows = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3e30, -4e30]])
    torch.testing.assert_close(l2_normalized(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, -0.8]]))


@pytest.mark.parametrize("memory_bytes", [0, 1 << 30], ids=["streamed", "in memory"])
def test_the_rows_do_not_depend_on_the_block_size(memory_bytes):
    arrays = three_features(50)
    rows = np.array([0, 3, 4, 17, 30, 31, 49])
    expected = joined_rows(arrays, ("kl", "embeddings"))[rows]
    for block_rows in (1, 7, 16, 50, 1000):
        source = source_of(arrays, rows, block_rows=block_rows, memory_bytes=memory_bytes)
        slices, blocks = zip(*source.blocks(("kl", "embeddings")), strict=True)
        assert slices[0].start == 0
        assert slices[-1].stop == len(source)
        joined = torch.cat([torch.cat([block["kl"], block["embeddings"]], 1) for block in blocks])
        np.testing.assert_allclose(joined, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.also_with_two_threads
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(8, 70), pca_dim=st.integers(1, 45), subset=st.integers(0, 6), block_rows=st.integers(3, 80))
def test_pca_from_the_gram_matrix_equals_scikit_learn(rows, pca_dim, subset, block_rows):
    """Compare the inner products of the reduced rows, because the signs of single directions can differ."""
    train_arrays, test_arrays = three_features(rows), three_features(30, seed=50)
    names = all_combinations(train_arrays)[subset]
    # Both implementations get the same rounded rows. If two variances are almost equal, PCA depends on the last digit.
    train, test = (
        joined_rows(arrays, names).astype(np.float32).astype(np.float64) for arrays in (train_arrays, test_arrays)
    )
    unnormalized = frozenset(names)
    train_features, test_features = (float32_features(joined, train_arrays, names) for joined in (train, test))
    source = source_of(train_features, block_rows=block_rows, unnormalized=unnormalized)
    reduction = Reducer(source, pca_dim).fit(names)
    our_train, our_test = (
        reduced(source_of(features, unnormalized=unnormalized), reduction, CPU).double().numpy()
        for features in (train_features, test_features)
    )
    if pca_dim < min(rows, train.shape[1]):
        oracle = PCA(pca_dim, svd_solver="full").fit(train)
        train, test = oracle.transform(train), oracle.transform(test)
        assert reduction.skipped is None
        assert reduction.explained_variance == pytest.approx(oracle.explained_variance_ratio_.sum(), abs=1e-9)
    else:
        assert reduction.skipped is not None
    np.testing.assert_allclose(our_test @ our_train.T, test @ train.T, atol=2e-6)  # float32 sums of terms of size one


@pytest.mark.parametrize(
    ("pca_dim", "rows", "features", "skipped"),
    [(32, 100, 48, False), (32, 32, 48, True), (32, 33, 33, False), (48, 100, 48, True), (512, 510, 768, True)],
)
def test_pca_is_applied_only_if_it_reduces_the_size(pca_dim, rows, features, skipped):
    assert (pca_skip_reason(pca_dim, rows, features) is not None) == skipped


@pytest.mark.also_with_two_threads
def test_pca_depends_only_on_train_rows():
    train, test = three_features(60), three_features(20, seed=9)
    names = ("embeddings", "dino")
    train_and_test = {name: np.concatenate([train[name], test[name]]) for name in train}
    reduction = Reducer(source_of(train), pca_dim=4).fit(names)
    reduction_of_first_rows = Reducer(source_of(train_and_test, np.arange(60)), pca_dim=4).fit(names)
    torch.testing.assert_close(reduction.weights["dino"].abs(), reduction_of_first_rows.weights["dino"].abs())


@pytest.mark.also_with_two_threads
def test_directions_without_variance_are_omitted():
    rank_two = np.random.default_rng(0).normal(size=(40, 2)) @ np.random.default_rng(1).normal(size=(2, 9))
    source = source_of({"kl": rank_two}, unnormalized=frozenset({"kl"}))
    assert Reducer(source, pca_dim=5).fit(("kl",)).dim == 2


def test_an_error_names_the_row_of_a_value_that_is_not_finite():
    values = np.ones((30, 4)) * np.arange(30)[:, None]
    values[17, 2] = np.nan
    with pytest.raises(FungiError, match=r"kl: 1 row \(row 17\) is NaN or infinite"):
        list(source_of({"kl": values}, block_rows=8).blocks(("kl",)))


def test_a_feature_with_equal_rows_is_refused():
    with pytest.raises(FungiError, match=r"dino: all 30 rows have the same values"):
        list(source_of({"dino": np.tile(np.arange(4.0), (30, 1))}).blocks(("dino",)))


def test_a_warning_names_zero_and_constant_rows():
    values = np.random.default_rng(0).normal(size=(30, 4))
    values[[3, 20]], values[5] = 0, 2.5
    source = source_of({"kl": values}, block_rows=8)
    list(source.blocks(("kl",)))
    assert source.warnings() == [
        "kl: 2 rows (rows 3, 20) are all zero",
        "kl: 1 row (row 5) is constant (one value everywhere)",
    ]
