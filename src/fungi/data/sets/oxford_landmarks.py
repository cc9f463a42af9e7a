"""`oxford-landmarks`: revisited Oxford (roxford5k), 4993 database images, 70 queries (`formats.landmarks`)."""

from pathlib import Path

from fungi.data.base import DATASETS
from fungi.data.formats.landmarks import LandmarkQuery, Landmarks, landmarks_spec

LANDMARKS = Landmarks("oxford-landmarks", "roxford5k")


def ground_truth(data_dir: Path) -> list[LandmarkQuery]:
    """What is known of each query (see `fungi.data.formats.landmarks`)."""
    return LANDMARKS.ground_truth(data_dir)


DATASETS.register("oxford-landmarks", landmarks_spec(LANDMARKS, title="Revisited Oxford", database=4993, queries=70))
