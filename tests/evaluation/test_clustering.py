"""Compare the matching of clusters and classes with all permutations, and CKA with its formula."""

from itertools import permutations

import numpy as np
import pytest
import torch

from fungi.errors import FungiError
from fungi.evaluators.cka import cka_matrix
from fungi.evaluators.clustering import cluster, match_clusters
from fungi.scoring import cluster as cluster_command
from fungi.scoring.cluster import ClusterSettings
from tests.evaluation.feature_folder import clustered_features, make_folder


def test_the_matching_is_the_best_of_all_permutations():
    generator = np.random.default_rng(0)
    targets, assigned = generator.integers(0, 4, 80), generator.integers(0, 4, 80)
    best = max(np.mean(np.array(order)[assigned] == targets) for order in permutations(range(4)))
    matched = match_clusters(assigned, targets)
    assert matched.accuracy == pytest.approx(best)
    assert np.mean(matched.predictions == targets) == pytest.approx(best)


def test_overlaps_equal_a_hand_computed_example():
    """Class 5 has three rows; two are in its cluster of three. Class 9 has two rows; one is in its cluster of two."""
    matched = match_clusters(np.array([0, 0, 1, 0, 1]), np.array([5, 5, 5, 9, 9]))
    assert matched.accuracy == pytest.approx(3 / 5)
    assert matched.overlap == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert matched.intersection_over_union == pytest.approx((2 / 4 + 1 / 3) / 2)


@pytest.mark.also_with_two_threads
def test_well_separated_clusters_are_recovered():
    features, targets = clustered_features(90, 6, 3, seed=0, noise=0.05)
    clusters = cluster(features, targets)
    assert clusters.accuracy == clusters.overlap == clusters.intersection_over_union == 1
    assert clusters.nmi == pytest.approx(1)


def test_fewer_distinct_rows_than_classes_are_refused():
    with pytest.raises(FungiError, match=r"fewer distinct rows than the 3 classes"):
        cluster(np.repeat([[0.0, 1.0], [1.0, 0.0]], 3, axis=0), np.array([0, 1, 2, 0, 1, 2]))


def test_the_command_clusters_only_the_scored_split(tmp_path):
    make_folder(tmp_path, rows={"test": 60})
    content = cluster_command.run(ClusterSettings(root=(tmp_path,), pca_dim=4))
    assert list(content["results"]) == ["embeddings", "embeddings+kl", "embeddings+kl+dino"]
    assert set(content["provenance"]["features"][0]) == {"test"}
    assert content["results"]["embeddings+kl"]["accuracy"] > 0.9


@pytest.mark.also_with_two_threads
def test_cka_equals_its_formula_and_ignores_rotation_and_scale():
    generator = np.random.default_rng(0)
    x, z = generator.normal(size=(50, 6)), generator.normal(size=(50, 4))
    rotated = 3 * x @ np.linalg.qr(generator.normal(size=(6, 6)))[0]
    centred = [block - block.mean(axis=0) for block in (x, rotated, z)]
    joined = torch.from_numpy(np.concatenate(centred, axis=1))
    similarities = cka_matrix(joined.T @ joined, {"x": 6, "rotated": 6, "z": 4})

    def formula(a, b):
        return np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))

    np.testing.assert_allclose(similarities, [[formula(a, b) for b in centred] for a in centred])
    assert similarities[0, 1] == pytest.approx(1)
    assert similarities[0, 2] < 0.5
