"""k-means with one-to-one matching of clusters and classes (spec vision 9.7)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Integer

from fungi.errors import FungiError


@dataclass(frozen=True)
class Clustering:
    """Scores of a clustering. Each cluster is matched to a class.

    accuracy: share of rows whose own class is matched to their cluster.
    overlap: mean of intersection / class size over matched pairs of a cluster and a class.
    intersection_over_union: mean of intersection / union over matched pairs.
    nmi: normalised mutual information.
    predictions: for each row, the class that is matched to the cluster of the row; -1 if no class is matched to it.
    """

    accuracy: float
    overlap: float
    intersection_over_union: float
    nmi: float
    predictions: Int64[np.ndarray, " n"]


def cluster(
    features: Float[np.ndarray, "n r"], targets: Integer[np.ndarray, " n"], *, seed: int = 42, restarts: int = 10
) -> Clustering:
    """Cluster the rows with k-means, one cluster per class, and match clusters and classes.

    restarts: number of runs of k-means, of which the best is used.
    Raises FungiError if there are fewer distinct rows than classes.
    """
    from sklearn.cluster import KMeans

    classes = len(np.unique(targets))
    if len(np.unique(features, axis=0)) < classes:
        raise FungiError(f"there are fewer distinct rows than the {classes} classes: they can't be clustered.")
    clusters = KMeans(classes, n_init=restarts, random_state=seed).fit_predict(features)
    return match_clusters(clusters.astype(np.int64), targets)


def match_clusters(clusters: Int64[np.ndarray, " n"], targets: Integer[np.ndarray, " n"]) -> Clustering:
    """Match clusters and classes one to one, with the largest accuracy (Hungarian algorithm), and return the scores.

    clusters: cluster of each row.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import normalized_mutual_info_score

    classes, codes = np.unique(targets, return_inverse=True)
    cluster_count = max(int(clusters.max()) + 1, len(classes))
    counts = np.zeros((cluster_count, len(classes)), dtype=np.int64)  # rows by cluster and class
    np.add.at(counts, (clusters, codes), 1)
    matched_clusters, matched_classes = linear_sum_assignment(counts, maximize=True)
    intersections = counts[matched_clusters, matched_classes]
    class_sizes = counts.sum(axis=0)[matched_classes]
    cluster_sizes = counts.sum(axis=1)[matched_clusters]
    class_of_cluster = np.full(cluster_count, -1, dtype=np.int64)
    class_of_cluster[matched_clusters] = classes[matched_classes]
    return Clustering(
        accuracy=float(intersections.sum() / len(targets)),
        overlap=float(np.mean(intersections / class_sizes)),
        intersection_over_union=float(np.mean(intersections / (class_sizes + cluster_sizes - intersections))),
        nmi=float(normalized_mutual_info_score(targets, clusters)),
        predictions=class_of_cluster[clusters],
    )
