"""`paris-landmarks`: revisited Paris (rparis6k), 6322 database images, 70 queries (see `formats.landmarks`)."""

from fungi.data.base import DATASETS
from fungi.data.formats.landmarks import Landmarks, landmarks_spec

LANDMARKS = Landmarks("paris-landmarks", "rparis6k")
ground_truth = LANDMARKS.ground_truth
DATASETS.register("paris-landmarks", landmarks_spec(LANDMARKS, title="Revisited Paris", database=6322, queries=70))
