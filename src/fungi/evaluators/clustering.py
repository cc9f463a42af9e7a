"""k-means with one-to-one matching of clusters and classes (spec vision 9.7)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Integer

from fungi.errors import FungiError


@dataclass(frozen=True)
class Clustering:
    """Scores of a clustering against the classes.

    accuracy: share of rows in the cluster that is matched to their class. overlap: mean of intersection / class size
    over matched pairs. intersection_over_union: mean of intersection / union over matched pairs. nmi: normalised mutual
    information. predictions: for each row, the class that is matched to its cluster.
    """

    accuracy: float
    overlap: float
    intersection_over_union: float
    nmi: float
    predictions: Int64[np.ndarray, " n"]


def cluster(
    features: Float[np.ndarray, "n r"], targets: Integer[np.ndarray, " n"], *, seed: int = 42, restarts: int = 10
) -> Clustering:
    """Cluster the rows, one cluster per class, and match. Raises FungiError if there are fewer rows than classes."""
    from sklearn.cluster import KMeans

    classes = len(np.unique(targets))
    if len(np.unique(features, axis=0)) < classes:
        raise FungiError(f"there are fewer distinct rows than the {classes} classes: they can't be clustered.")
    assigned = KMeans(classes, n_init=restarts, random_state=seed).fit_predict(features)
    return match_clusters(assigned.astype(np.int64), targets)


def match_clusters(assigned: Int64[np.ndarray, " n"], targets: Integer[np.ndarray, " n"]) -> Clustering:
    """Match clusters and classes so that most rows agree (Hungarian algorithm)."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import normalized_mutual_info_score

    classes, codes = np.unique(targets, return_inverse=True)
    clusters = max(int(assigned.max()) + 1, len(classes))
    counts = np.zeros((clusters, len(classes)), dtype=np.int64)  # [cluster class]
    np.add.at(counts, (assigned, codes), 1)
    matched_clusters, matched_classes = linear_sum_assignment(counts, maximize=True)
    shared = counts[matched_clusters, matched_classes]
    class_sizes = counts.sum(axis=0)[matched_classes]
    cluster_sizes = counts.sum(axis=1)[matched_clusters]
    class_of = np.full(clusters, -1, dtype=np.int64)
    class_of[matched_clusters] = classes[matched_classes]
    return Clustering(
        accuracy=float(shared.sum() / len(targets)),
        overlap=float(np.mean(shared / class_sizes)),
        intersection_over_union=float(np.mean(shared / (class_sizes + cluster_sizes - shared))),
        nmi=float(normalized_mutual_info_score(targets, assigned)),
        predictions=class_of[assigned],
    )
