"""`paris-landmarks`: revisited Paris (rparis6k), 6322 database images, 70 queries (`formats.landmarks`)."""

from pathlib import Path

from fungi.data.base import DATASETS
from fungi.data.formats.landmarks import LandmarkQuery, Landmarks, landmarks_spec

LANDMARKS = Landmarks("paris-landmarks", "rparis6k")


def ground_truth(data_dir: Path) -> list[LandmarkQuery]:
    """What is known of each query (see `fungi.data.formats.landmarks`)."""
    return LANDMARKS.ground_truth(data_dir)


DATASETS.register("paris-landmarks", landmarks_spec(LANDMARKS, title="Revisited Paris", database=6322, queries=70))
