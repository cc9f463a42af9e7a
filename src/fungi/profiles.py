"""Profiles: `clean` is the method of the paper, `published` is the method with the deviations of the published code.

Each deviation that can change an accuracy is a switch (spec vision 10.4). The glossary of CONTRIBUTING.md says where
deviations such as V3, T3, U2 and H4 are listed. The profile is part of the provenance of every file, so that features
of different profiles are never joined.
"""

from dataclasses import dataclass
from typing import Literal

from fungi.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Switches of a profile.

    attention_input: multiply the gradient at the output of the attention's output projection with the *input of the
        attention module*, instead of the input of the projection (spec vision 10, V1).
    published_transform: use the evaluation transform of the published code (spec vision 10, V2).
    imagenet_view_statistics: normalise DINO and SimCLR views with ImageNet statistics for every backbone (V3).
    published_labels: use the labels of the published loaders, if they differ from the labels of the dataset (T3).
    first_token_gradient: use only the part of the gradient that comes from the first token (U2). The published code
        does so for some backbones, although their embedding depends on more tokens. The switch affects only these
        backbones.
    stratified_texts: draw few-shot rows of texts in proportion to the classes, not the same number per class (T4).
    """

    name: str
    attention_input: bool = False
    published_transform: bool = False
    imagenet_view_statistics: bool = False
    published_labels: bool = False
    first_token_gradient: bool = False
    stratified_texts: bool = False


PROFILES = {
    "clean": Profile(name="clean"),
    "published": Profile(
        name="published",
        attention_input=True,
        published_transform=True,
        imagenet_view_statistics=True,
        published_labels=True,
        first_token_gradient=True,
        stratified_texts=True,
    ),
}


def choose_profile(name: str) -> Profile:
    """Return the profile with this name. Raises FungiError for an unknown name."""
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]


@dataclass(frozen=True, kw_only=True)
class DenseProfile:
    """Switches of a profile of segmentation, one for each deviation of the published code (spec dense 6).

    denominator_temperature: also divide the similarities inside the log-sum-exp by the temperature; the published code
        does not (H2).
    std_typo: use 0.255 instead of 0.225 as the third standard deviation of ImageNet's statistics (H5).
    neighbour_layout: rows that are used as negatives: `real` neighbours, or rows that mix the entries of five
        neighbours (`published`; H1).
    zero_rows: also search the rows of the bank that were never filled (H6).
    class_matching: also report the mIoU after the best matching of classes (H4).
    projection_kind: kind of the projection matrix of gradients.
    """

    denominator_temperature: bool = True
    std_typo: bool = False
    neighbour_layout: Literal["real", "published"] = "real"
    zero_rows: bool = False
    class_matching: bool = False
    projection_kind: str = "khatri-rao"


DENSE_PROFILES = {
    "clean": DenseProfile(),
    "published": DenseProfile(
        denominator_temperature=False,
        std_typo=True,
        neighbour_layout="published",
        zero_rows=True,
        class_matching=True,
        projection_kind="binary",
    ),
}


@dataclass(frozen=True)
class SegmentationNumbers:
    """Values of the numeric settings of segmentation (spec dense 5).

    memory_size: number of patches in the bank; 0: every patch.
    augmentation_epochs: number of augmented copies of each training image in the bank.
    neighbours: number of neighbours that vote.
    temperature: temperature of the votes.
    """

    memory_size: int
    augmentation_epochs: int
    neighbours: int
    temperature: float


FULL = SegmentationNumbers(memory_size=1_024_000, augmentation_epochs=1, neighbours=30, temperature=0.02)
"""Published values for all training images."""
DATA_EFFICIENT = SegmentationNumbers(memory_size=0, augmentation_epochs=8, neighbours=90, temperature=0.1)
"""Published values for a small number of training images."""
