"""What the published segmentation code did differently, one switch for each (spec dense 6)."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DenseProfile:
    """The switches.

    denominator_temperature: divide the similarities inside the log-sum-exp, too (H2). std_typo: 0.255 in place of 0.225
    as the third deviation of ImageNet's statistics (H5). neighbour_layout: real neighbours as negatives, or rows that
    interleave the entries of five (H1). zero_rows: the bank is searched with the rows that were never filled (H6).
    class_matching: mIoU after the best matching of classes is reported as an extra (H4). projection_kind: of gradients.
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
