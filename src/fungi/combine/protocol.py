"""Settings of the published protocol that depend on the dataset and the backbone."""

from fungi.backbones.base import BACKBONES
from fungi.data.base import DATASETS

DEFAULT_PCA_DIM = 512
"""Number of PCA components for a backbone that is not registered."""


def usual_pca_dim(dataset: str, backbone: str) -> int:
    """Return the number of PCA components that the dataset defines (spec vision 9.6).

    If the dataset defines no number, return the number that the backbone defines (spec vision 9.1).
    """
    dataset_dim = DATASETS[dataset].pca_dim if dataset in DATASETS else None
    backbone_dim = BACKBONES[backbone].pca_dim if backbone in BACKBONES else DEFAULT_PCA_DIM
    return dataset_dim or backbone_dim
